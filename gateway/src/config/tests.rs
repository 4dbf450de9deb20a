//! The three ways to say something, and what cannot be said.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Task};

/// A configuration from flags, a file and the environment, which holds a token and the URL of a Redis.
fn config(flags: &[&str], toml: &str, env: &[(&str, &str)]) -> anyhow::Result<Config> {
    let file = TemporaryFile::new(toml);
    let path = file.0.to_str().unwrap().to_owned();
    let mut arguments = vec!["tollgate", "gateway"];
    if !toml.is_empty() {
        arguments.extend(["--config", &path]);
    }
    arguments.extend(flags);
    let mut vars = BTreeMap::from([("TOLLGATE_TOKEN", "secret"), ("A_TOKEN", "one"), ("B_TOKEN", "two")]);
    vars.extend([("A_REDIS", "redis://a"), ("BAD", "two words"), ("BLANK", " ")]);
    vars.extend(env.iter().copied());
    let Task::Gateway(args) = Cli::try_parse_from(arguments)?.task else { unreachable!() };
    Config::new(*args, |name| vars.get(name).map(|&value| value.to_owned()))
}

fn error(flags: &[&str], toml: &str) -> String {
    format!("{:#}", config(flags, toml, &[]).map(drop).unwrap_err())
}

/// A file that is gone with this value.
struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    fn new(text: &str) -> Self {
        let name = format!("tollgate-config-{}.toml", getrandom::u64().unwrap());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const REDIS: [&str; 2] = ["--redis", "redis://localhost"];

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let toml =
        "redis = 'redis://file'\nmax_body = '1MiB'\nthreads = 3\naccess_log = true\nlog_format = 'json'";
    let config = config(&["--max-body", "2MiB", "--access-log=false"], toml, &[]).unwrap();
    assert_eq!((config.limits.body, config.limits.pipeline), (2 << 20, 1000));
    assert_eq!((config.threads.get(), config.log.access, config.log.format), (3, false, LogFormat::Json));
    assert_eq!(config.tenants[0].redis.to_string(), "redis://file:6379/0");
}

/// A flag, values that it takes, and values that it does not.
const BOUNDS: [(&str, [&str; 2], [&str; 4]); 19] = [
    ("connections", ["1", "64"], ["0", "65", "-1", "x"]),
    ("threads", ["1", "256"], ["0", "257", "1.5", ""]),
    ("command-timeout", ["1ms", "5m"], ["0ms", "301s", "1", "1d"]),
    ("max-body", ["1KiB", "512MiB"], ["1023", "513MiB", "1MB", ""]),
    ("max-header", ["4KiB", "256KiB"], ["4095", "257KiB", "x", ""]),
    ("max-response", ["1KiB", "1GiB"], ["1023B", "1025MiB", "x", ""]),
    ("max-pipeline", ["1", "100000"], ["0", "100001", "x", ""]),
    ("max-in-flight", ["1", "65536"], ["0", "65537", "x", ""]),
    ("max-in-flight-per-token", ["1", "65536"], ["0", "65537", "x", ""]),
    ("max-streams", ["1", "65536"], ["0", "65537", "x", ""]),
    ("max-streams-per-token", ["1", "65536"], ["0", "65537", "x", ""]),
    ("max-connections", ["1", "65536"], ["0", "65537", "x", ""]),
    ("max-memory", ["1MiB", "64GiB"], ["1023KiB", "65GiB", "x", ""]),
    ("body-timeout", ["100ms", "10m"], ["99ms", "601s", "x", ""]),
    ("write-timeout", ["100ms", "10m"], ["99ms", "601s", "x", ""]),
    ("idle-timeout", ["1s", "24h"], ["999ms", "25h", "x", ""]),
    ("drain", ["0s", "10m"], ["601s", "11m", "x", ""]),
    ("listen", ["[::1]:0", "unix:/x"], ["8079", "localhost:1", "unix:", ""]),
    ("admin-listen", ["[::1]:0", "unix:/x"], ["8079", "localhost:1", "unix:", ""]),
];

#[test]
fn flags_and_files_have_the_same_bounds() {
    for (flag, good, bad) in BOUNDS {
        let key = flag.replace('-', "_");
        for value in good {
            let flags = [REDIS[0], REDIS[1], &format!("--{flag}={value}")];
            config(&flags, "", &[]).unwrap();
            config(&REDIS, &format!("{key} = '{value}'"), &[]).unwrap();
        }
        for value in bad {
            let by_flag = error(&[REDIS[0], REDIS[1], &format!("--{flag}={value}")], "");
            let by_file = error(&REDIS, &format!("{key} = '{value}'"));
            let expected = &by_file[by_file.rfind("expected").unwrap()..];
            assert!(by_flag.contains(expected) && by_flag.contains(flag), "{by_flag} {by_file}");
            assert!(by_file.contains(&format!("line 1, `{key}`: found `{value}`")), "{by_file}");
        }
    }
}

#[test]
fn every_flag_is_a_variable_and_a_line_of_the_file() {
    use clap::CommandFactory as _;
    let command = Cli::command();
    let gateway = command.find_subcommand("gateway").unwrap();
    let mut toml = String::new();
    for argument in gateway.get_arguments() {
        let name = argument.get_id().as_str();
        if matches!(name, "help" | "check") {
            continue;
        }
        let variable = format!("TOLLGATE_{}", name.to_uppercase());
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert_eq!(argument.get_long(), Some(name.replace('_', "-").as_str()));
        if name != "config" {
            // Nothing is an array, so the error has to come from the value and not from the name.
            let error = error(&REDIS, &format!("{name} = [[]]"));
            assert!(error.contains(&format!("`{name}")) && !error.contains("unknown"), "{error}");
            writeln!(toml, "{name}").unwrap();
        }
    }
    assert!(toml.lines().count() > 25);
}

#[test]
fn a_token_is_required_unless_refused_explicitly() {
    let with = |flags: &[&str]| config(&[&REDIS, flags].concat(), "", &[]);
    assert!(with(&[]).is_ok());
    assert!(with(&["--no-auth"]).unwrap().tenants[0].token.is_none());
    let allowed = with(&["--allow", "SHUTDOWN, config set"]).unwrap();
    assert_eq!(allowed.tenants[0].rights.allow, ["SHUTDOWN", " config set"]);
    assert!(with(&["--allow", ""]).unwrap().tenants[0].rights.allow.is_empty());
    assert!(with(&["--token-env", "A_TOKEN"]).is_ok());
    let failing = |flags: &[&str]| format!("{:#}", with(flags).map(drop).unwrap_err());
    for (flags, text) in [
        (&["--token-env", "UNSET"][..], "no token: set `UNSET`, or give `--token-file`"),
        (&["--token-env", "BLANK"], "the token is empty in the environment variable `BLANK`"),
        (&["--token-env", "BAD"], "the token in the environment variable `BAD` cannot be used: it has other"),
        (&["--token-file", "/does/not/exist"], "cannot read the token from the file `/does/not/exist`"),
        (&["--no-auth", "--token-env", "A_TOKEN"], "`no_auth` and a token cannot be had together"),
    ] {
        assert!(failing(flags).starts_with(text), "{}", failing(flags));
    }
}

#[test]
fn tokens_have_their_own_redis_and_rights() {
    let file = TemporaryFile::new("  three\n");
    let toml = format!(
        "redis = 'redis://common'\nconnections = 2\nmax_in_flight_per_token = 7\n\
         [[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\nredis_env = 'A_REDIS'\nconnections = 3\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\nread_only = true\nmax_in_flight = 1\n\
         [[tokens]]\nname = 'c'\ntoken_file = '{}'\ncommands = ['get', 'SCRIPT LOAD']\nkey_prefixes = ['c:']\n\
         [[tokens]]\nname = 'd'\ntoken_env = 'D_TOKEN'\nallow = ['evalsha']\nkey_prefixes = ['d:']\n\
         [[tokens]]\nname = 'e'\ntoken_env = 'E_TOKEN'\nallow = ['COPY DB', 'Shutdown']",
        file.0.display()
    );
    let config = config(&[], &toml, &[("D_TOKEN", "four"), ("E_TOKEN", "five")]).unwrap();
    let [a, b, c, ..] = &config.tenants[..] else { panic!("five tokens") };
    assert_eq!(
        (a.redis.to_string(), b.redis.to_string()),
        ("redis://a:6379/0".into(), "redis://common:6379/0".into())
    );
    assert_eq!((a.connections.get(), b.connections.get()), (3, 2));
    assert_eq!((a.in_flight, b.in_flight), (Some(7), Some(1)));
    assert!(b.rights.read_only && !a.rights.read_only);
    assert_eq!(c.token, Some(Token::new("three").unwrap()));
    let text = config.to_string();
    for part in [
        "token `a`: redis://a:6379/0 over 3 connections a thread: everything but what is dangerous, at most 7 requests at once",
        "token `b`: redis://common:6379/0 over 2 connections a thread: read only, at most 1 requests at once",
        "only get, SCRIPT LOAD, only keys that begin with `c:`",
        "a thread: only keys that begin with `d:`, SCRIPTS REACH EVERY KEY, also evalsha",
        "a thread: everything but what is dangerous, also COPY DB, Shutdown",
        "limit pipeline: 1000",
    ] {
        assert!(text.contains(part), "{text}");
    }
    for secret in ["one", "two", "three"] {
        assert!(
            !text.contains(&format!("{secret} "))
                && !format!("{config:?}").contains(&format!("\"{secret}\""))
        );
    }
}

#[test]
fn where_there_are_several_tokens_none_has_all_places() {
    let tokens = "redis = 'redis://h'\n[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n";
    let two = format!("{tokens}[[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\nmax_streams = 9");
    let places = |flags: &[&str], toml: &str| {
        let config = config(flags, toml, &[]).unwrap();
        let places = config.tenants.iter().map(|tenant| (tenant.in_flight, tenant.streams));
        places.collect::<Vec<_>>()
    };
    assert_eq!(places(&[], tokens), [(None, None)]);
    assert_eq!(places(&[], &two), [(Some(768), Some(768)), (Some(768), Some(9))]);
    let flags = ["--max-in-flight", "10", "--max-streams-per-token", "20"];
    assert_eq!(places(&flags, &two), [(Some(8), Some(20)), (Some(8), Some(9))]);
    assert_eq!(places(&["--max-in-flight", "1"], &two)[0].0, Some(1));
    let text = config(&[], &two, &[]).unwrap().to_string();
    assert!(text.contains("dangerous, at most 768 requests at once, at most 9 streams at once"), "{text}");
}

#[test]
fn what_is_said_for_all_tokens_applies_where_it_can() {
    let common = "redis_ca = '/no/such/ca'\nsentinel_user = 'u'\nsentinel_password_env = 'B_TOKEN'\nread_from = 'replica'\n";
    let own =
        |redis: &str| format!("{common}[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\nredis = '{redis}'");
    assert!(config(&[], &own("redis://h"), &[]).is_ok());
    assert!(config(&[], &own("redis+sentinel://h/main"), &[]).is_ok());
    assert!(error(&[], &own("rediss://h")).contains("/no/such/ca"));
    assert!(
        error(&[], &format!("{}\nread_from = 'replica'", own("redis://h")))
            .contains("reads from replicas need")
    );
    assert!(error(&[], &format!("{common}redis = 'redis://h'")).contains("sentinel"));
    assert!(
        error(&[], &format!("{}\nsentinel_password_env = 'UNSET'", own("redis+sentinel://h/m")))
            .contains("`UNSET`")
    );
}

#[test]
fn mistakes_name_their_place_and_the_fix() {
    let token = "[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n";
    let redis = "redis = 'redis://:hunter2@common'\n";
    for (toml, text) in [
        ("threads = 1".into(), "no Redis: give `--redis URL`, or set `TOLLGATE_REDIS`"),
        (token.into(), "`tokens[0]` (`a`): it has no Redis: set `redis_env`"),
        (format!("{redis}[[tokens]]\nname = 'a'"), "`tokens[0]` (`a`): it has no token: set `token_env`"),
        (
            format!("{redis}[[tokens]]\nname = 'a b'\ntoken_env = 'A_TOKEN'"),
            "`tokens[0]` (`a b`): `name` is for logs",
        ),
        (format!("{redis}{token}{token}"), "`tokens[1]` has the name of `tokens[0]`"),
        (
            format!("{redis}{token}[[tokens]]\nname = 'b'\ntoken_env = 'A_TOKEN'"),
            "`tokens[1]` has the token of `tokens[0]`",
        ),
        (
            format!("{redis}{token}commands = ['NOSUCH']"),
            "`tokens[0]` (`a`): `NOSUCH` is no command of Redis",
        ),
        (format!("{redis}{token}allow = ['COPY NOSUCH']"), "`tokens[0]` (`a`): `COPY NOSUCH` is no command"),
        (format!("{redis}allow = ['NOSUCH']"), "`allow`: `NOSUCH` is no command of Redis"),
        (
            format!("{redis}allow = ['SHUTDOWN']\n{token}"),
            "there are `[[tokens]]`, so `allow` must not be set for all of them: write it into each token",
        ),
        (format!("{redis}{token}key_prefixes = ['']"), "`tokens[0]` (`a`): a key prefix is empty"),
        (
            format!("{redis}{token}redis_env = 'UNSET'"),
            "`tokens[0]` (`a`): the URL of Redis is to be in the environment variable `UNSET`",
        ),
        (
            format!("{redis}no_auth = true\n{token}"),
            "there are `[[tokens]]`, so `token_env`, `token_file` and `no_auth` must not be set",
        ),
        (format!("{redis}token_env = 'A_TOKEN'\n{token}"), "there are `[[tokens]]`, so"),
        ("redis = 'redis://:hunter2@h:x'".into(), "a port in the Redis URL is not a number"),
        (format!("{redis}tls_cert = 'x'"), "`tls_cert` and `tls_key` need each other"),
        (format!("{redis}listen_mode = 660"), "`listen_mode` is for a unix socket"),
        (format!("{redis}listen = 'unix:/x'\ntls_cert = 'x'\ntls_key = 'y'"), "TLS is not for a unix socket"),
    ] {
        let error = error(&[], &toml);
        assert!(error.contains(text), "{toml}\n{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(
        error(&["--config", "/does/not/exist"], "")
            .contains("cannot read the configuration `/does/not/exist`")
    );
}

#[test]
fn origins_are_those_of_a_token_or_of_all() {
    let toml = "redis = 'redis://a'\norigins = ['https://all.example']\n\
        [[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\norigins = ['https://a.example', 'http://localhost:3000']\n\
        [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\n";
    let of = |config: &Config, number: usize| {
        config.tenants[number].origins.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let read = config(&[], toml, &[]).unwrap();
    assert_eq!(of(&read, 0), ["https://a.example", "http://localhost:3000"]);
    assert_eq!(of(&read, 1), ["https://all.example"]);
    assert!(read.to_string().contains("from web pages of https://a.example and http://localhost:3000 too"));
    let flags =
        [&REDIS[..], &["--origins", "https://x.example,http://y.example", "--hosts", "A.example,b"]].concat();
    let read = config(&flags, "", &[]).unwrap();
    assert_eq!(of(&read, 0), ["https://x.example", "http://y.example"]);
    assert_eq!(read.hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>(), ["a.example", "b"]);
    assert!(
        error(&[], &toml.replace("https://a.example", "a.example"))
            .contains("found `a.example`, expected the origin")
    );
}

#[test]
fn a_peer_gets_three_quarters_of_the_connections_unless_it_is_said() {
    let limits =
        |flags: &[&str]| config(&[&REDIS[..], flags].concat(), "", &[]).unwrap().limits.connections_per_peer;
    assert_eq!((limits(&[]), limits(&["--max-connections", "1"])), (3072, 1));
    assert_eq!(limits(&["--max-connections-per-peer", "4096"]), 4096);
}
