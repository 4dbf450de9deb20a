//! How a decision came about.

use alloc::vec::Vec;

use crate::config::FailureMode;
use crate::rate_limit::Standing;

/// How a decision came about.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The number of the route taken, of [`Policy::routes`](crate::policy::Policy::routes).
    pub route: Option<usize>,
    /// What each limit said; only the one that refused if it was remembered.
    pub verdicts: Vec<Verdict>,
    /// What each other guard said, as far as it was asked.
    pub guards: Vec<GuardVerdict>,
}

impl Report {
    pub(super) const fn of_route(route: Option<usize>) -> Self {
        Self { route, verdicts: Vec::new(), guards: Vec::new() }
    }

    /// Notes what a guard said; of two answers, the graver one.
    pub(super) fn add(&mut self, guard: usize, ruling: Ruling, source: Source) {
        match self.guards.iter_mut().find(|verdict| verdict.guard == guard) {
            Some(verdict) if verdict.ruling.gravity() >= ruling.gravity() => {}
            Some(verdict) => (verdict.ruling, verdict.source) = (ruling, source),
            None => self.guards.push(GuardVerdict { guard, ruling, source }),
        }
    }

    /// Whether the guard of this number has asked the store and had no objection.
    pub(super) fn passed_store(&self, guard: usize) -> bool {
        let passed = GuardVerdict { guard, ruling: Ruling::Admitted, source: Source::Store };
        self.guards.contains(&passed)
    }

    /// The modes in which limits and guards decided without the store, without repetition.
    pub fn degraded(&self) -> impl Iterator<Item = FailureMode> {
        let modes = [FailureMode::Deny, FailureMode::Local, FailureMode::Allow];
        let sources = || {
            let limits = self.verdicts.iter().map(|verdict| verdict.source);
            limits.chain(self.guards.iter().map(|verdict| verdict.source))
        };
        modes.into_iter().filter(move |mode| sources().any(|source| source == Source::Degraded(*mode)))
    }
}

/// What one limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The limit's number, of [`Policy::limits`](crate::policy::Policy::limits).
    pub limit: usize,
    /// What it said.
    pub ruling: Ruling,
    /// How its counter stands, where a counter was asked.
    pub standing: Option<Standing>,
    /// Who decided.
    pub source: Source,
}

impl Verdict {
    /// Whether the request is refused because of it.
    pub fn refuses(&self) -> bool {
        self.ruling.refuses()
    }
}

/// What one guard said that is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardVerdict {
    /// The guard's number, of [`Policy::guards`](crate::policy::Policy::guards).
    pub guard: usize,
    /// What it said.
    pub ruling: Ruling,
    /// Who decided.
    pub source: Source,
}

/// What a limit or another guard said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// There was room, or nothing to object.
    Admitted,
    /// There was.
    Refused,
    /// There was, but in shadow mode.
    ShadowRefused,
    /// The store could not be asked, and the policy refuses then.
    Unavailable,
}

impl Ruling {
    /// Whether the request is refused because of it.
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Refused | Self::Unavailable)
    }

    const fn gravity(self) -> u8 {
        match self {
            Self::Admitted => 0,
            Self::ShadowRefused => 1,
            Self::Unavailable => 2,
            Self::Refused => 3,
        }
    }
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store, or the embedded memory where there is none; of a breaker, at most a second ago. Of a token, its issuer.
    Store,
    /// A denial remembered here.
    Denials,
    /// The store could not be asked; this is what the policy says then.
    Degraded(FailureMode),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_answers_of_a_guard_the_graver_one_counts() {
        let rulings = [Ruling::Admitted, Ruling::ShadowRefused, Ruling::Unavailable, Ruling::Refused];
        for (place, graver) in rulings.into_iter().enumerate() {
            for other in rulings.into_iter().take(place) {
                for order in [[graver, other], [other, graver]] {
                    let mut report = Report::of_route(None);
                    order.into_iter().for_each(|ruling| report.add(3, ruling, Source::Store));
                    let expected = GuardVerdict { guard: 3, ruling: graver, source: Source::Store };
                    assert_eq!(report.guards, [expected], "{order:?}");
                }
            }
        }
        let mut report = Report::of_route(None);
        [Source::Store, Source::Denials]
            .into_iter()
            .for_each(|source| report.add(3, Ruling::Refused, source));
        assert_eq!(report.guards[0].source, Source::Store, "of two alike, the first");
    }
}
