//! What fuzz targets need to reach; not there without the feature `fuzzing`.

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use crate::backend::connection::Connection;
use crate::command::{Batch, Builder, Rights, Rules, parse_command, parse_path, parse_pipeline};
use crate::reply::{Encoding, Format, write_results};

/// Commands as arguments, or the error that answers each; or the error that answers all of them.
pub type Commands = Result<Vec<Result<Vec<Vec<u8>>, String>>, String>;

/// What a body becomes, as one command or as a pipeline.
pub fn body(body: &[u8], pipeline: bool) -> Commands {
    let rules = Rules::default();
    let batch = if pipeline { parse_pipeline(body, 100, &rules) } else { parse_command(body, &rules) };
    batch.map(|batch| commands(&batch)).map_err(|error| error.to_string())
}

/// What a path becomes.
pub fn path(path: &str, query: Option<&str>, body: &[u8]) -> Commands {
    let batch = parse_path(path, query, body, &Rules::default());
    batch.map(|batch| commands(&batch)).map_err(|error| error.to_string())
}

/// What a token with these rights sends Redis when it asks for this command; nothing if it may not.
pub fn sent(words: &[&[u8]], rights: &Rights) -> Option<Vec<Vec<u8>>> {
    let rules = Rules::new(rights.clone()).ok()?;
    let mut builder = Builder::new(0, &rules);
    words.iter().for_each(|word| builder.argument(word));
    builder.end_command();
    commands(&builder.build()).pop()?.ok()
}

/// Asks for `asked` replies three times over one connection, on which Redis sends `pieces` and then no more: the answers
/// in JSON, and how many replies each holds.
pub fn conversation(pieces: &[&[u8]], asked: usize, largest: usize) -> Vec<(String, usize)> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return Vec::new() };
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (connection, driver) = Connection::new(ours, largest, crate::memory::Memory::new(1 << 30));
        let driver = tokio::spawn(driver);
        let answers: Vec<_> = (0..3).map(|_| connection.ask(Bytes::from_static(b"x"), asked)).collect();
        for piece in pieces {
            let _ = theirs.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        drop(theirs);
        let _ = driver.await;
        let mut texts = Vec::new();
        for answer in answers {
            let Ok(answer) = answer.await else { continue };
            let replies = crate::backend::Replies::whole(answer.replies, answer.count);
            let names = vec![r#"["PING"]"#; answer.count].join(",");
            if let Ok(batch) = parse_pipeline(format!("[{names}]").as_bytes(), 100, &Rules::default()) {
                let json = write_results(&batch, &replies, Format::Json(Encoding::Text)).body;
                texts.push((String::from_utf8_lossy(&json).into_owned(), answer.count));
            }
        }
        texts
    })
}

fn commands(batch: &Batch) -> Vec<Result<Vec<Vec<u8>>, String>> {
    let command = |entry: &crate::command::Entry| match entry {
        crate::command::Entry::Send(sending) => Ok(batch.arguments(sending).map(<[u8]>::to_vec).collect()),
        crate::command::Entry::Refused(text) => Err(text.clone()),
    };
    batch.entries().iter().map(command).collect()
}
