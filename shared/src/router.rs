//! Which route a request takes.
//!
//! Routes are tried in the order the policy lists them and the first match wins, but they are not scanned: a trie of
//! path segments, one for each host named, yields only the routes whose path and host fit, and a subtree
//! whose first route comes after one already found is not entered. The work is bounded by the depth of the deepest
//! pattern and the branches that wildcards open, not by the number of routes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{HostPattern, PathPattern, PatternSegment};
use crate::path::Path;

/// Finds the first route that fits a path and host.
#[derive(Debug, Default)]
pub struct Router {
    any_host: Node,
    hosts: BTreeMap<String, Node>,
    /// By the part after `*.`.
    wildcard_hosts: BTreeMap<String, Node>,
}

impl Router {
    /// Adds route number `route`; routes must be added in ascending order.
    ///
    /// No pattern means every path, no host means every host.
    pub fn insert(&mut self, route: usize, path: Option<&PathPattern>, hosts: &[HostPattern]) {
        if hosts.is_empty() {
            self.any_host.insert(route, path);
        }
        for host in hosts {
            let node = match host {
                HostPattern::Exact(name) => self.hosts.entry(name.clone()).or_default(),
                HostPattern::Subdomains(name) => self.wildcard_hosts.entry(name.clone()).or_default(),
            };
            node.insert(route, path);
        }
    }

    /// The first route that fits `path` and `host` and that `accept` agrees to.
    ///
    /// `host` is as the request has it; port, case and a trailing dot do not matter.
    pub fn find(&self, path: &Path, host: &[u8], accept: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        let mut search = Search { best: usize::MAX, accept };
        search.visit(&self.any_host, path.segments());
        if !(self.hosts.is_empty() && self.wildcard_hosts.is_empty())
            && let Some(host) = normalize_host(host)
        {
            if let Some(node) = self.hosts.get(&host) {
                search.visit(node, path.segments());
            }
            for (dot, _) in host.match_indices('.') {
                let parent = host.get(dot + 1..).unwrap_or_default();
                if let Some(node) = self.wildcard_hosts.get(parent) {
                    search.visit(node, path.segments());
                }
            }
        }
        (search.best != usize::MAX).then_some(search.best)
    }
}

#[derive(Debug)]
struct Node {
    literals: BTreeMap<Vec<u8>, Node>,
    any: Option<Box<Node>>,
    /// Routes that end here.
    exact: Vec<usize>,
    /// Routes that hold for this path and everything below it.
    prefix: Vec<usize>,
    /// The first route of this subtree.
    first: usize,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            literals: BTreeMap::new(),
            any: None,
            exact: Vec::new(),
            prefix: Vec::new(),
            first: usize::MAX,
        }
    }
}

impl Node {
    fn insert(&mut self, route: usize, path: Option<&PathPattern>) {
        let mut node = self;
        node.first = node.first.min(route);
        for segment in path.map_or(&[][..], PathPattern::segments) {
            node = match segment {
                PatternSegment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                PatternSegment::Any => node.any.get_or_insert_default(),
            };
            node.first = node.first.min(route);
        }
        if path.is_none_or(PathPattern::is_prefix) { node.prefix.push(route) } else { node.exact.push(route) }
    }
}

struct Search<'a> {
    best: usize,
    accept: &'a mut dyn FnMut(usize) -> bool,
}

impl Search<'_> {
    fn visit<'p>(&mut self, node: &Node, mut rest: impl Iterator<Item = &'p [u8]> + Clone) {
        if node.first >= self.best {
            return;
        }
        self.consider(&node.prefix);
        match rest.next() {
            None => self.consider(&node.exact),
            Some(segment) => {
                if let Some(child) = node.literals.get(segment) {
                    self.visit(child, rest.clone());
                }
                // No server takes an empty segment for a name.
                if let Some(child) = node.any.as_ref().filter(|_| !segment.is_empty()) {
                    self.visit(child, rest);
                }
            }
        }
    }

    fn consider(&mut self, routes: &[usize]) {
        let better = routes.iter().copied().take_while(|route| *route < self.best);
        if let Some(route) = better.into_iter().find(|route| (self.accept)(*route)) {
            self.best = route;
        }
    }
}

/// Lower case, without port and trailing dot; `None` for what cannot be a host name.
fn normalize_host(host: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(host).ok()?;
    // Whatever stands behind the name: readers disagree about what a port may be, and many look at the name alone.
    let name = match text.strip_prefix('[') {
        Some(_) => text.split_inclusive(']').next().unwrap_or(text),
        None => text.split(':').next().unwrap_or(text),
    };
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathRules;

    fn router(patterns: &[&str]) -> Router {
        let mut router = Router::default();
        for (route, pattern) in patterns.iter().enumerate() {
            let pattern = PathPattern::parse(pattern, PathRules::default()).unwrap();
            router.insert(route, Some(&pattern), &[]);
        }
        router
    }

    fn find(router: &Router, path: &str) -> Option<usize> {
        router.find(&Path::normalize(path.as_bytes(), PathRules::default()), b"", &mut |_| true)
    }

    #[test]
    fn the_first_match_wins_whatever_its_shape() {
        let router = router(&["/a/*/c", "/a/b/c", "/a/*", "/a/b", "/*"]);
        assert_eq!(find(&router, "/a/b/c"), Some(0));
        assert_eq!(find(&router, "/a/b"), Some(2));
        assert_eq!(find(&router, "/a"), Some(2));
        assert_eq!(find(&router, "/b"), Some(4));
        assert_eq!(find(&router, "/"), Some(4));
    }

    #[test]
    fn a_wildcard_in_the_middle_is_one_segment() {
        let router = router(&["/users/*/orders"]);
        assert_eq!(find(&router, "/users/7/orders"), Some(0));
        assert_eq!(find(&router, "/users/orders"), None);
        assert_eq!(find(&router, "/users/7/8/orders"), None);
        assert_eq!(find(&router, "/users/7/orders/9"), None);
    }

    #[test]
    fn conditions_pass_the_search_on_to_the_next_match() {
        let router = router(&["/a", "/*", "/a"]);
        let path = Path::normalize(b"/a", PathRules::default());
        assert_eq!(router.find(&path, b"", &mut |route| route != 0), Some(1));
        assert_eq!(router.find(&path, b"", &mut |route| route == 2), Some(2));
        assert_eq!(router.find(&path, b"", &mut |_| false), None);
    }

    #[test]
    fn hosts_are_told_apart_without_port_case_and_dot() {
        let mut router = Router::default();
        router.insert(0, None, &[HostPattern::parse("api.example.com").unwrap()]);
        router.insert(1, None, &[HostPattern::parse("*.example.com").unwrap()]);
        router.insert(2, None, &[]);
        let path = Path::normalize(b"/x", PathRules::default());
        let find = |host: &str| router.find(&path, host.as_bytes(), &mut |_| true);
        assert_eq!(find("API.example.com.:8080"), Some(0));
        for host in ["api.example.com:x", "api.example.com:80:80", "api.example.com:", "api.example.com.."] {
            assert_eq!(find(host), Some(0), "{host}");
        }
        assert_eq!(find("a.b.example.com"), Some(1));
        assert_eq!(find("example.com"), Some(2));
        assert_eq!(find("[::1]:80"), Some(2));
        assert_eq!(find(""), Some(2));
    }
}
