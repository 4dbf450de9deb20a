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
        if bytes.starts_with(refusal::BEGINNING) {
            if this.instead.is_none() {
                this.instead = refusal::in_json(bytes, this.endless).map(|text| (text, 0));
            }
            if this.instead.is_some() {
                return this.poll_write_instead(cx).map_ok(|()| bytes.len());
            }
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
        if let Some(first) = bytes.first().filter(|first| first.starts_with(refusal::BEGINNING)) {
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
