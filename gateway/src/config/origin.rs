//! Where web pages come from that may use the gateway, and the names that browsers may know it by.

use std::fmt;
use std::str::FromStr;

use super::units::as_in_flags;

/// The origin of web pages, such as `https://app.example`, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A host, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Origin {
    /// As it stands in `Origin`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Host {
    /// In lower case.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected the origin of web pages such as `https://app.example` or `http://localhost:3000`: a scheme, a host and \
             a port if it is not the usual one"
                .to_owned()
        };
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or_else(expected)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !rest.ends_with(']') => (name, Some(port)),
            _ => (rest, None),
        };
        let usual = match scheme {
            "http" => "80",
            "https" => "443",
            _ => "",
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
        if !is_scheme || !is_host(name) || !port.is_none_or(is_port) {
            return Err(expected());
        }
        match port {
            Some(port) if port != usual => Ok(Self(lower)),
            // Browsers leave it out.
            Some(_) => Ok(Self(format!("{scheme}://{name}"))),
            None => Ok(Self(lower)),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match is_host(text) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err("expected the name of a host, without a port".into()),
        }
    }
}

fn is_host(name: &str) -> bool {
    match name.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_in_flags!(() Origin, () Host);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for (text, expected) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example:443", "https://app.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://[::1]", "http://[::1]"),
            ("https://a:80", "https://a:80"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), expected);
        }
        for wrong in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a/b",
            "https://a:",
            "https://a:x",
            "https://a:080",
            "https://a:65536",
            "https://user@a",
            "https://*.a",
            "https://a, https://b",
            "://a",
            "https://[::1",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
        assert_eq!("Tollgate.Example".parse::<Host>().unwrap().as_str(), "tollgate.example");
        assert!("a:1".parse::<Host>().is_err() && "".parse::<Host>().is_err());
    }
}
