//! Whose request it is, by address.
//!
//! A wrong answer here is either a limit that anybody escapes by writing a header, or a limit that everybody behind
//! one proxy shares. So the address is never simply the leftmost `X-Forwarded-For` entry, which the client writes:
//! it is the connection's own, or the entry that the outermost *trusted* proxy wrote, counted from the right.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{ClientIpConfig, ClientIpSource};
use crate::request::Request;

/// The client's address as limits see it: IPv4 in full, IPv6 cut to its prefix.
///
/// An IPv4-mapped IPv6 address equals its IPv4. IPv6 is cut because one customer is usually given a whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(IpAddr);

impl ClientIp {
    /// Finds the client's address; `None` when there is none, which is a key value of its own.
    ///
    /// With a header source and fewer entries than `trusted_hops`, the request did not come through the trusted
    /// proxies: then the connection's address is used, which no client can choose. An entry that is not an address
    /// gives `None`.
    pub fn find(config: &ClientIpConfig, request: &dyn Request) -> Option<Self> {
        let address = match &config.from {
            ClientIpSource::Connection => request.peer(),
            ClientIpSource::Header(name) => {
                match nth_from_right(request, name.as_str(), config.trusted_hops.get()) {
                    Some(entry) => parse_entry(&entry),
                    None => request.peer(),
                }
            }
        }?;
        Some(Self::new(address, config.ipv6_prefix.get()))
    }

    /// Reads an address that is already known to be the client's.
    pub fn parse(config: &ClientIpConfig, text: &str) -> Option<Self> {
        Some(Self::new(parse_entry(text.as_bytes())?, config.ipv6_prefix.get()))
    }

    fn new(address: IpAddr, ipv6_prefix: u8) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self(IpAddr::V4(v4)),
                None => {
                    let drop = 128u32.saturating_sub(u32::from(ipv6_prefix));
                    let mask = u128::MAX.checked_shl(drop).unwrap_or(0);
                    Self(IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask)))
                }
            },
        }
    }

    /// Calls `read` with the bytes that stand for this address in a digest: 4 or 16, so the families never meet.
    pub fn bytes(self, read: &mut dyn FnMut(&[u8])) {
        match self.0 {
            IpAddr::V4(v4) => read(&v4.octets()),
            IpAddr::V6(v6) => read(&v6.octets()),
        }
    }
}

/// The `n`th entry from the right (1 is the last) of a comma-separated field, over all its lines.
fn nth_from_right(request: &dyn Request, name: &str, n: u16) -> Option<Vec<u8>> {
    // The last `n` entries seen so far are enough, however long the field is.
    let n = usize::from(n);
    let mut last: Vec<Vec<u8>> = Vec::new();
    request.header(name, &mut |line| {
        let mut of_line: Vec<&[u8]> = line.rsplit(|b| *b == b',').take(n).collect();
        of_line.reverse();
        last.extend(of_line.into_iter().map(|entry| entry.trim_ascii().to_vec()));
        let surplus = last.len().saturating_sub(n);
        last.drain(..surplus);
    });
    if last.len() < n { None } else { last.into_iter().next() }
}

/// Reads `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:567`, with or without a zone.
pub fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = core::str::from_utf8(entry).ok()?;
    let text = text.trim_matches('"');
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, _port) = bracketed.split_once(']')?;
        return parse_v6(inside);
    }
    if let Some((host, _port)) = text.split_once(':')
        && let Ok(v4) = host.parse::<Ipv4Addr>()
    {
        return Some(IpAddr::V4(v4));
    }
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4).or_else(|| parse_v6(text))
}

fn parse_v6(text: &str) -> Option<IpAddr> {
    let without_zone = text.split_once('%').map_or(text, |(address, _zone)| address);
    without_zone.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;
    use core::num::{NonZeroU8, NonZeroU16};

    use super::*;
    use crate::config::HeaderName;

    struct Lines(Vec<String>);

    impl Request for Lines {
        fn method(&self, _: &mut dyn FnMut(&[u8])) {}
        fn target(&self, _: &mut dyn FnMut(&[u8])) {}
        fn authority(&self, _: &mut dyn FnMut(&[u8])) {}
        fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
            assert_eq!(name, "x-forwarded-for");
            self.0.iter().for_each(|line| read(line.as_bytes()));
        }
        fn peer(&self) -> Option<IpAddr> {
            "192.0.2.9".parse().ok()
        }
    }

    fn find(lines: &[&str], trusted_hops: u16) -> Option<ClientIp> {
        let config = ClientIpConfig {
            from: ClientIpSource::Header(HeaderName::parse("x-forwarded-for").unwrap()),
            trusted_hops: NonZeroU16::new(trusted_hops).unwrap(),
            ipv6_prefix: NonZeroU8::new(64).unwrap(),
        };
        ClientIp::find(&config, &Lines(lines.iter().map(|l| String::from(*l)).collect()))
    }

    fn ip(text: &str) -> Option<ClientIp> {
        Some(ClientIp(text.parse().unwrap()))
    }

    #[test]
    fn entries_count_from_the_right_over_all_lines() {
        assert_eq!(find(&["6.6.6.6, 10.0.0.1, 10.0.0.2"], 1), ip("10.0.0.2"));
        assert_eq!(find(&["6.6.6.6, 10.0.0.1", "10.0.0.2"], 2), ip("10.0.0.1"));
        assert_eq!(find(&["6.6.6.6", "10.0.0.1,10.0.0.2"], 3), ip("6.6.6.6"));
    }

    #[test]
    fn a_field_shorter_than_the_trusted_hops_falls_back_to_the_connection() {
        assert_eq!(find(&["6.6.6.6"], 2), ip("192.0.2.9"));
        assert_eq!(find(&[], 1), ip("192.0.2.9"));
    }

    #[test]
    fn garbage_is_no_address() {
        assert_eq!(find(&["6.6.6.6, unknown"], 1), None);
        assert_eq!(find(&[""], 1), None);
    }

    #[test]
    fn addresses_are_read_with_ports_brackets_and_zones() {
        for (text, address) in [
            ("1.2.3.4:80", "1.2.3.4"),
            ("[2001:db8:1:2:3::]:80", "2001:db8:1:2:3::"),
            ("\"[2001:db8::1]\"", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
        ] {
            assert_eq!(parse_entry(text.as_bytes()), address.parse().ok(), "{text}");
        }
    }

    #[test]
    fn ipv6_is_cut_and_mapped_ipv4_is_ipv4() {
        assert_eq!(find(&["2001:db8:1:2:3:4:5:6"], 1), ip("2001:db8:1:2::"));
        assert_eq!(find(&["::ffff:1.2.3.4"], 1), ip("1.2.3.4"));
        let whole = ClientIp::new("2001:db8::1".parse().unwrap(), 128);
        assert_eq!(Some(whole), ip("2001:db8::1"));
        let mut lengths = vec![];
        whole.bytes(&mut |bytes| lengths.push(bytes.len()));
        assert_eq!(lengths, [16]);
    }
}
