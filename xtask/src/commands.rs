//! `commands`: the gateway's table of commands, written from what the pinned Redis says of itself.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use redis::Value;
use tollgate_tests::redis::Redis;
use tollgate_tests::{ports, run_dir, tools};

use crate::setup;

/// Writes `gateway/src/command/table.rs`.
pub(crate) fn run() -> Result<ExitCode> {
    setup::run()?;
    let path = path();
    std::fs::write(&path, table()?).with_context(|| format!("cannot write `{}`", path.display()))?;
    println!("written to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn path() -> PathBuf {
    tools::workspace().join("gateway/src/command/table.rs")
}

fn table() -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut text = String::from(HEAD);
    write_commands(&mut text, &runtime.block_on(ask())?, 4)?;
    text.push_str("];\n");
    Ok(text)
}

async fn ask() -> Result<Vec<Value>> {
    let redis = Redis::start(&run_dir::create()?, ports::free()?).await?;
    let mut connection = redis::Client::open(redis.url())?.get_connection()?;
    Ok(redis::cmd("COMMAND").query(&mut connection)?)
}

fn write_commands(out: &mut String, commands: &[Value], depth: usize) -> Result<()> {
    let mut commands: Vec<(String, &[Value])> =
        commands.iter().map(|command| Ok((name(command)?, items(command)?))).collect::<Result<_>>()?;
    commands.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, command) in commands {
        let [_, _, flags, _, _, _, categories, tips, keys, subcommands, ..] = command else {
            bail!("`{name}` is described in another way than Redis 7 does");
        };
        let (flags, categories, tips) = (texts(flags)?, texts(categories)?, texts(tips)?);
        let has = |flag: &str| flags.iter().any(|it| it == flag);
        let dangerous = categories.iter().any(|category| category == "@dangerous");
        let tip = |name: &str| tips.iter().find_map(|tip| tip.strip_prefix(name));
        let route = match tip("request_policy:") {
            None => "Keys",
            Some("multi_shard") => "MultiShard",
            Some("all_shards") => "AllShards",
            Some("all_nodes") => "AllNodes",
            Some("special") => "Special",
            Some(other) => bail!("`{name}` has an unknown request policy `{other}`"),
        };
        let fold = match tip("response_policy:") {
            None => "Join",
            Some("all_succeeded") => "AllSucceeded",
            Some("one_succeeded") => "OneSucceeded",
            Some("agg_sum") => "Sum",
            Some("agg_min") => "Least",
            Some("agg_logical_and") => "AllTrue",
            Some("special") => "Special",
            Some(other) => bail!("`{name}` has an unknown response policy `{other}`"),
        };
        let marks: String =
            [(has("write"), 'w'), (has("readonly"), 'r'), (has("blocking"), 'b'), (dangerous, '!')]
                .into_iter()
                .filter_map(|(holds, mark)| holds.then_some(mark))
                .collect();
        let keys = items(keys)?.iter().map(place).collect::<Result<Vec<_>>>()?.join(", ");
        write!(
            out,
            "{:depth$}Info::new({name:?}, {marks:?}, &[{keys}], Route::{route}, Fold::{fold}, &[",
            ""
        )?;
        let subcommands = items(subcommands)?;
        if !subcommands.is_empty() {
            out.push('\n');
            write_commands(out, subcommands, depth + 4)?;
            write!(out, "{:depth$}", "")?;
        }
        out.push_str("]),\n");
    }
    Ok(())
}

fn place(spec: &Value) -> Result<String> {
    let flags = texts(field(spec, "flags")?)?;
    let (begin, find) = (field(spec, "begin_search")?, field(spec, "find_keys")?);
    let kind = |value| text(field(value, "type")?);
    let number = |value, name: &str| match field(field(value, "spec")?, name)? {
        Value::Int(number) => Ok(*number),
        other => bail!("`{name}` is {other:?}, not a number"),
    };
    let begin = match kind(begin)?.as_str() {
        // A place that Redis says may hold more keys than it can tell.
        _ if flags.iter().any(|flag| flag == "incomplete") => "Unknown".to_owned(),
        "index" => format!("Index({})", number(begin, "index")?),
        "keyword" => {
            let word = text(field(field(begin, "spec")?, "keyword")?)?;
            match number(begin, "startfrom")? {
                from @ 1.. => format!("Keyword({word:?}, {from})"),
                // Looked for from the end: which of several it is cannot be said.
                _ => "Unknown".to_owned(),
            }
        }
        _ => "Unknown".to_owned(),
    };
    let find = match kind(find)?.as_str() {
        "range" => format!(
            "Range {{ last: {}, step: {}, limit: {} }}",
            number(find, "lastkey")?,
            number(find, "keystep")?,
            number(find, "limit")?
        ),
        "keynum" => format!(
            "Count {{ at: {}, first: {}, step: {} }}",
            number(find, "keynumidx")?,
            number(find, "firstkey")?,
            number(find, "keystep")?
        ),
        _ => "Find::Unknown".to_owned(),
    };
    Ok(format!("Keys::new({begin}, {find})"))
}

/// The name in capitals; of `script|load` what is behind the bar.
fn name(command: &Value) -> Result<String> {
    let name = text(items(command)?.first().context("a command without a name")?)?;
    Ok(name.rsplit('|').next().unwrap_or_default().to_uppercase())
}

fn field<'a>(map: &'a Value, name: &str) -> Result<&'a Value> {
    let pairs = items(map)?.as_chunks::<2>().0;
    let found = pairs.iter().find(|[key, _]| text(key).is_ok_and(|key| key == name));
    found.map(|[_, value]| value).with_context(|| format!("`{name}` is missing in {map:?}"))
}

fn items(value: &Value) -> Result<&[Value]> {
    match value {
        Value::Array(items) => Ok(items),
        other => bail!("expected an array, found {other:?}"),
    }
}

fn texts(value: &Value) -> Result<Vec<String>> {
    items(value)?.iter().map(text).collect()
}

fn text(value: &Value) -> Result<String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8(bytes.clone())?),
        Value::SimpleString(text) => Ok(text.clone()),
        other => bail!("expected a text, found {other:?}"),
    }
}

const HEAD: &str = "\
//! Written by `cargo xtask commands`; do not edit.
//!
//! Marks: `w` writes, `r` reads, `b` may block, `!` is dangerous.

use super::info::Begin::{Index, Keyword, Unknown};
use super::info::Find::{Count, Range};
use super::info::{Find, Fold, Info, Keys, Route};

/// The commands of Redis, sorted by name.
#[rustfmt::skip]
pub(crate) static COMMANDS: &[Info] = &[
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_redis_says() {
        let committed = std::fs::read_to_string(path()).unwrap();
        assert!(committed == table().unwrap(), "run `cargo xtask commands` and look at what changes");
    }
}
