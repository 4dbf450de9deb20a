//! A client's socket, whatever kind it is, watched for whether the client reads.

use std::io::{self, IoSlice};
use std::net;
use std::os::unix;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pulse::Pulse;
use super::refusal;

/// A socket on its way to the thread that serves it.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    pulse: Rc<Pulse>,
    /// What was read to find out what the client speaks.
    first: [u8; PREFACE.len()],
    read: usize,
    /// How much of that was handed on.
    replayed: usize,
    speaks: Version,
    /// Whether a body was announced that is longer than anything.
    endless: bool,
    /// What is written instead of hyper's own words, and how much of it was.
    instead: Option<(Vec<u8>, usize)>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Socket {
    /// Takes a socket over on this thread, and shakes hands if it is to be encrypted.
    pub(crate) async fn new(
        accepted: Accepted,
        tls: Option<&TlsAcceptor>,
        pulse: Rc<Pulse>,
    ) -> io::Result<Self> {
        let stream = match (accepted, tls) {
            (Accepted::Tcp(stream), None) => Stream::Tcp(TcpStream::from_std(stream)?),
            (Accepted::Tcp(stream), Some(tls)) => {
                Stream::Tls(Box::new(tls.accept(TcpStream::from_std(stream)?).await?))
            }
            (Accepted::Unix(stream), _) => Stream::Unix(UnixStream::from_std(stream)?),
        };
        let first = [0; PREFACE.len()];
        let speaks = Version::Http1;
        Ok(Self { stream, pulse, first, read: 0, replayed: 0, speaks, endless: false, instead: None })
    }

    /// Reads as much as it takes to tell what the client speaks.
    pub(crate) async fn version(&mut self) -> io::Result<Version> {
        self.speaks = self.spoken().await?;
        Ok(self.speaks)
    }

    async fn spoken(&mut self) -> io::Result<Version> {
        loop {
            let Some(rest) = self.first.get_mut(self.read..) else { return Ok(Version::Http2) };
            if rest.is_empty() {
                return Ok(Version::Http2);
            }
            let count = self.stream.read(rest).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read += count;
            if !PREFACE.starts_with(self.first.get(..self.read).unwrap_or_default()) {
                return Ok(Version::Http1);
            }
        }
    }
}

impl Socket {
    /// Whether hyper may have said this by itself. While a request is under way it is a part of an
    /// answer, which may look like it.
    fn may_be_refusal(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(refusal::BEGINNING)
            && self.speaks == Version::Http1
            && self.pulse.is_between_requests()
    }

    /// Writes `instead` of what hyper wanted to.
    fn poll_write_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((text, written)) = &mut self.instead {
            match text.get(*written..) {
                Some(rest @ [_, ..]) => *written += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?,
                _ => self.instead = None,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(again @ [_, ..]) = this.first.get(this.replayed..this.read) {
            let count = again.len().min(out.remaining());
            out.put_slice(again.get(..count).unwrap_or_default());
            this.replayed += count;
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
        if this.speaks == Version::Http1 {
            let came = out.filled().get(before..).unwrap_or_default();
            if !came.is_empty() {
                this.endless |= this.pulse.heard() && ENDLESS.find(came).is_some();
            } else if out.remaining() > 0 && this.pulse.ending_waits(cx) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_none() && this.may_be_refusal(bytes) {
            this.instead = refusal::in_json(bytes, this.endless).map(|text| (text, 0));
        }
        if this.instead.is_some() {
            return this.poll_write_instead(cx).map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.pulse.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) =
            bytes.first().filter(|first| self.instead.is_some() || self.may_be_refusal(first))
        {
            return self.poll_write(cx, first);
        }
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.pulse.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Does the same with every kind of stream.
macro_rules! each {
    ($stream:expr, $inner:ident => $action:expr) => {
        match $stream {
            Stream::Tcp($inner) => $action,
            Stream::Tls($inner) => $action,
            Stream::Unix($inner) => $action,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, out))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Lengths from which on hyper takes a body for a head that is too large: 2^64 − 2 and one more.
static ENDLESS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("1844674407370955161"));

/// What a client begins with that speaks HTTP/2 without having been asked.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;

    use super::super::pulse::{Patience, Underway};
    use super::*;

    const REFUSAL: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";

    /// What a client that speaks `speaks` is sent of these slices, while a request is under way or
    /// not.
    async fn sent(speaks: Version, is_under_way: bool, slices: &[&[u8]]) -> String {
        let patience = Duration::from_secs(10);
        let pulse = Rc::new(Pulse::new(Patience { write: patience, idle: patience, head: patience }));
        let underway = is_under_way.then(|| Underway::new(Rc::clone(&pulse)));
        let (ours, mut theirs) = unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(patience)).unwrap();
        let mut socket = Socket::new(Accepted::Unix(ours), None, pulse).await.unwrap();
        socket.speaks = speaks;
        for slice in slices {
            let written = socket.write_vectored(&[IoSlice::new(slice)]).await.unwrap();
            assert_eq!(written, slice.len());
        }
        drop((socket, underway));
        let mut text = String::new();
        io::Read::read_to_string(&mut theirs, &mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn only_what_hyper_says_by_itself_is_said_in_json() {
        let said = sent(Version::Http1, false, &[REFUSAL]).await;
        assert!(said.ends_with(r#"{"error":"ERR max header size exceeded"}"#), "{said}");
        // A piece of an answer may look like it, where a value was written to: in RESP2, which is
        // not escaped.
        let refusal = String::from_utf8_lossy(REFUSAL);
        for speaks in [Version::Http1, Version::Http2] {
            let said = sent(speaks, true, &[b"44\r\n", REFUSAL]).await;
            assert_eq!(said, format!("44\r\n{refusal}"));
        }
        assert_eq!(sent(Version::Http2, false, &[REFUSAL]).await, refusal);
    }
}
