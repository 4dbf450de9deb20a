//! One client of the gateway: a connection that stays open, and answers as values.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::whole;

/// A client with a token, which sends one request after the other.
#[derive(Debug)]
pub struct Rest {
    address: SocketAddr,
    authorization: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What came of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer.
    Done(Value),
    /// An error which says that the command may have run all the same.
    Unknown(String),
    /// An error otherwise: it did not run.
    Refused(String),
}

impl Rest {
    /// A client that connects when it sends something.
    pub fn new(address: SocketAddr, token: &str) -> Rest {
        Rest { address, authorization: format!("Bearer {token}"), connection: None }
    }

    /// Sends a command and returns what came of it.
    pub async fn command(&mut self, words: &Value) -> Result<Outcome> {
        let (status, answer) = self.post("/", words).await?;
        let outcome = Outcome::of(answer)?;
        ensure!(
            status.is_success() == matches!(outcome, Outcome::Done(_)),
            "status {status} and {outcome:?} do not go together"
        );
        Ok(outcome)
    }

    /// Sends commands to `/pipeline` or `/multi-exec`. Where they failed as a whole, each of them did.
    pub async fn batch(&mut self, path: &str, commands: &[Value]) -> Result<Vec<Outcome>> {
        let (status, answer) = self.post(path, &Value::from(commands)).await?;
        match answer {
            Value::Array(answers) => {
                ensure!(status == StatusCode::OK, "status {status} with {} answers", answers.len());
                let (found, expected) = (answers.len(), commands.len());
                ensure!(found == expected, "{found} answers to {expected} commands");
                answers.into_iter().map(Outcome::of).collect()
            }
            whole => {
                ensure!(!status.is_success(), "status {status} and no list: {whole}");
                Ok(vec![Outcome::of(whole)?; commands.len()])
            }
        }
    }

    /// Sends a body and returns the status and the answer, which is JSON whatever happened.
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let exchange = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(self.address).await?,
            };
            let request = Request::post(path)
                .header("host", "gateway")
                .header("authorization", &self.authorization)
                .body(Full::from(body.to_string()))?;
            let answer = whole(connection.send_request(request).await?).await?;
            self.connection = Some(connection);
            anyhow::Ok((answer.status, answer.json()?))
        };
        let answer = timeout(PATIENCE, exchange).await;
        answer.with_context(|| format!("`POST {path}` was not answered within {PATIENCE:?}"))?
    }
}

impl Outcome {
    fn of(answer: Value) -> Result<Outcome> {
        let Value::Object(mut fields) = answer else { bail!("neither a result nor an error: {answer}") };
        match (fields.remove("result"), fields.remove("error")) {
            (Some(result), None) => Ok(Outcome::Done(result)),
            (None, Some(Value::String(error))) if error.contains("may have run") => {
                Ok(Outcome::Unknown(error))
            }
            (None, Some(Value::String(error))) => Ok(Outcome::Refused(error)),
            other => bail!("neither a result nor an error: {other:?}"),
        }
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(connection)
}

/// Longer than any answer may take, whatever happens behind the gateway.
const PATIENCE: Duration = Duration::from_secs(15);
