//! `tollgate gateway --check`: what would run, without secrets.

use std::fmt::{self, Write as _};

use super::Config;

/// What would run.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.listen.tcp(), &self.tls) {
            (None, _) => "",
            (Some(_), None) => "http://",
            (Some(_), Some(_)) => "https://",
        };
        writeln!(f, "{scheme}{} with {} threads", self.listen, self.threads)?;
        match &self.admin_listen {
            Some(address) => writeln!(f, "health and metrics at {address}")?,
            None => writeln!(f, "health and metrics at the same address")?,
        }
        for tenant in &self.tenants {
            let mut may = Vec::new();
            if tenant.rights.read_only {
                may.push("read only".to_owned());
            }
            if !tenant.rights.commands.is_empty() {
                may.push(format!("only {}", tenant.rights.commands.join(", ")));
            }
            if !tenant.rights.key_prefixes.is_empty() {
                let prefixes: Vec<_> =
                    tenant.rights.key_prefixes.iter().map(|prefix| format!("`{prefix}`")).collect();
                may.push(format!("only keys that begin with {}", prefixes.join(" or ")));
                if tenant.rights.names_scripts() {
                    may.push("SCRIPTS REACH EVERY KEY".to_owned());
                }
            }
            if may.is_empty() {
                may.push("everything but what is dangerous".to_owned());
            }
            if !tenant.rights.allow.is_empty() {
                may.push(format!("also {}", tenant.rights.allow.join(", ")));
            }
            if !tenant.origins.is_empty() {
                let origins: Vec<_> = tenant.origins.iter().map(ToString::to_string).collect();
                may.push(format!("from web pages of {} too", origins.join(" and ")));
            }
            if let Some(most) = tenant.in_flight {
                may.push(format!("at most {most} requests at once"));
            }
            if let Some(most) = tenant.streams {
                may.push(format!("at most {most} streams at once"));
            }
            match tenant.token {
                Some(_) => write!(f, "token `{}`", tenant.name)?,
                None => f.write_str("EVERYONE, without a token")?,
            }
            let connections = tenant.connections;
            writeln!(f, ": {} over {connections} connections a thread: {}", tenant.redis, may.join(", "))?;
        }
        let mut limits = String::new();
        write!(limits, "{:#?}", self.limits)?;
        for line in limits.lines().filter(|line| line.starts_with(' ')) {
            writeln!(f, "limit {}", line.trim().trim_end_matches(','))?;
        }
        Ok(())
    }
}
