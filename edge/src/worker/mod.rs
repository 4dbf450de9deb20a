//! The Cloudflare Worker: guards a request, sends it on to the origin, and adds header fields to the answer.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`instance`] | what an isolate makes of its variables, once |
//! | [`health`] | the control path: whether it lives, and how the store is |
//! | [`metrics`] | data points for Analytics Engine |
//! | [`origin`] | requests on their way to the origin |

mod health;
mod instance;
mod metrics;
mod origin;

use std::rc::Rc;

use web_sys::{Headers, Request, Response};
use worker::{Context, Env, event};

use tollgate_shared::answer;
use tollgate_shared::client_ip;
use tollgate_shared::exchange::Decision;
use tollgate_shared::time::Timestamp;

use crate::guard::Decided;
use crate::head::RequestHead;
use crate::host;
use instance::Instance;

#[event(fetch)]
async fn fetch(request: Request, env: Env, context: Context) -> Result<Response, worker::Error> {
    let (method, url, headers) = (request.method(), request.url(), request.headers());
    let is_head = method == "HEAD";
    let instance = match Instance::get(&env) {
        Ok(instance) => instance,
        // Without a policy nothing is known of limits, so nobody passes.
        Err(refusal) => return Ok(origin::answer(&refusal, is_head)),
    };
    // Cloudflare writes this field, whatever a client sends.
    let peer = headers.get("cf-connecting-ip").ok().flatten();
    let peer = peer.and_then(|address| client_ip::parse_entry(address.as_bytes()));
    let head = RequestHead::new(&method, &url, &headers, peer);
    if let Some(answer) = health::answer(&instance, &method, &head).await {
        return Ok(origin::answer(&answer, is_head));
    }
    let began = time(&headers);
    let Decided { mut decision, at, call } = instance.guard.check(&head, began).await;
    instance.metrics.decided(instance.guard.policy(), &decision, call.as_ref());
    settle(&instance, &mut decision, began, &context);
    let policy = instance.guard.policy();
    Ok(match &decision {
        Decision::Deny(denial) => origin::answer(&answer::denial(policy, denial, at), is_head),
        Decision::Allow(report) => {
            let fields = answer::fields(policy, report, at);
            instance.origin.forward(&request, head.target(), &fields)
        }
    })
}

/// What a decision leaves to tell the store is told behind the answer.
fn settle(instance: &Rc<Instance>, decision: &mut Decision, began: Timestamp, context: &Context) {
    let ops = decision.settle();
    if !ops.is_empty() {
        let instance = Rc::clone(instance);
        context.wait_until(async move {
            if let Some(call) = instance.guard.settle(ops, began).await {
                instance.metrics.called(&call);
            }
        });
    }
}

/// The time of the request; of tests' choosing if the Worker was built for that.
fn time(headers: &Headers) -> Timestamp {
    if cfg!(feature = "test-clock") {
        let chosen = |name| headers.get(name).ok().flatten();
        assert!(chosen("x-tollgate-test-panic").is_none(), "a test asked for this");
        if let Some(millis) = chosen("x-tollgate-test-now").and_then(|text| text.parse().ok()) {
            return Timestamp::from_millis(millis);
        }
    }
    host::now()
}
