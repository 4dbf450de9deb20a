//! What an isolate makes of its variables, once.

use std::cell::OnceCell;
use std::rc::Rc;

use js_sys::{Promise, Reflect};
use serde_json::{Map, Value, json};
use wasm_bindgen::{JsCast as _, JsValue};

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::config::ConfigError;
use tollgate_shared::control::Control;
use tollgate_shared::policy::Policy;

use super::control;
use super::metrics::Metrics;
use super::origin::{self, Origin};
use crate::after::Host;
use crate::guard::Guard;
use crate::host::{Level, Line, Road, log};
use crate::settings::{self, Settings};
use crate::store::CallReport;

/// A Worker, ready to serve.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) guard: Guard,
    pub(super) origin: Origin,
    pub(super) metrics: Metrics,
    /// The control path, if there is one.
    pub(super) control: Option<Control>,
}

impl Instance {
    /// This isolate's; or the answer to everybody, where the variables are wrong.
    pub(super) fn get(env: &JsValue) -> Result<Rc<Self>, Rc<Answer>> {
        thread_local! {
            static INSTANCE: OnceCell<Result<Rc<Instance>, Rc<Answer>>> = const { OnceCell::new() };
        }
        INSTANCE.with(|instance| {
            let made = || Self::new(env).map(Rc::new).map_err(|errors| Rc::new(misconfigured(&errors)));
            instance.get_or_init(made).clone()
        })
    }

    fn new(env: &JsValue) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut note = |error: ConfigError| errors.push(error);
        let policy = policy(env).map_err(|found| found.into_iter().for_each(&mut note)).ok();
        let settings = settings(env).map_err(|found| found.into_iter().for_each(&mut note)).ok();
        let dataset = Reflect::get(env, &JsValue::from_str("TOLLGATE_METRICS")).ok();
        let dataset = dataset.filter(JsValue::is_object);
        let (url, timeout) = (text(env, "ORIGIN_URL"), text(env, "TOLLGATE_ORIGIN_TIMEOUT"));
        let store = settings.as_ref().and_then(|settings| settings.store.as_ref());
        let origin = Origin::new(url, timeout.as_deref(), store, dataset.as_ref());
        let origin = origin.map_err(|found| found.into_iter().for_each(&mut note)).ok();
        let control = control::opened(env).map_err(|found| found.into_iter().for_each(&mut note)).ok();
        let (Some(policy), Some(settings), Some(origin), Some(control)) = (policy, settings, origin, control)
        else {
            return Err(errors);
        };
        let guard = Guard::new(policy, settings);
        if guard.store().is_none() {
            log(Level::Warn, &Line { message: NO_STORE });
        }
        Ok(Self { guard, origin, metrics: Metrics::new(dataset), control })
    }
}

impl Host for Instance {
    fn guard(&self) -> &Guard {
        &self.guard
    }

    fn road(&self) -> &Road {
        self.origin.road()
    }

    fn called(&self, call: &CallReport) {
        self.metrics.called(call);
    }

    fn wait_until(&self, context: &JsValue, promise: &Promise) {
        context.unchecked_ref::<js::Context>().wait_until(promise);
    }

    fn answer(&self, answer: &Answer) -> JsValue {
        origin::answer(answer, false).into()
    }
}

fn policy(env: &JsValue) -> Result<Policy, Vec<ConfigError>> {
    let json = text(env, POLICY).ok_or_else(|| {
        let expected = "the policy, as a text binding of JSON";
        vec![ConfigError::new(POLICY, "nothing", expected)]
    })?;
    settings::policy(POLICY, &json, &|name| text(env, name))
}

/// Reads the variables that are settings; errors name the variables.
fn settings(env: &JsValue) -> Result<settings::Checked, Vec<ConfigError>> {
    let mut written = Map::new();
    for (setting, variable) in SETTINGS {
        let Some(text) = text(env, variable) else { continue };
        let number = text.parse::<u32>().ok().filter(|_| NUMBERS.contains(&setting));
        let value = number.map_or_else(|| Value::from(text), Value::from);
        match setting.split_once('.') {
            None => _ = written.insert(setting.to_owned(), value),
            Some((outer, inner)) => {
                let object = written.entry(outer).or_insert_with(|| json!({}));
                if let Value::Object(object) = object {
                    object.insert(inner.to_owned(), value);
                }
            }
        }
    }
    let settings = Settings::from_json(&Value::Object(written).to_string());
    settings.map_err(|refused| refused.errors.into_iter().map(of_a_variable).collect())
}

/// An error about a setting as one about its variable.
fn of_a_variable(mut error: ConfigError) -> ConfigError {
    let both =
        |missing, other: &str| ConfigError::new(missing, "nothing", format!("it, where {other} is set"));
    match (error.path.as_str(), error.found.as_str()) {
        ("redis", "no `url`") => both("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"),
        ("redis", "no `token`") => both("UPSTASH_REDIS_REST_TOKEN", "UPSTASH_REDIS_REST_URL"),
        (path, _) => {
            let variable = SETTINGS.iter().find(|(setting, _)| *setting == path);
            error.path = variable.map_or(path, |(_, variable)| variable).to_owned();
            error
        }
    }
}

/// A variable or a secret; one that is empty is not there.
pub(super) fn text(env: &JsValue, name: &str) -> Option<String> {
    let value = Reflect::get(env, &JsValue::from_str(name)).ok()?;
    value.as_string().filter(|text| !text.is_empty())
}

/// Everybody's answer until it is mended. Details are for the log: they quote the configuration.
fn misconfigured(errors: &[ConfigError]) -> Answer {
    for error in errors {
        log(Level::Error, &Line { message: &format!("configuration: {error}") });
    }
    let places: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    let detail = format!("Tollgate is misconfigured: see its log about {}.", places.join(", "));
    answer::problem(500, "Internal Server Error", &detail, "TOLLGATE_MISCONFIGURED")
}

const POLICY: &str = "TOLLGATE_POLICY";

const NO_STORE: &str = "no store is configured (UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN): \
                        limits hold for this isolate alone, in its memory";

/// Settings, and the variables they come from.
const SETTINGS: [(&str, &str); 8] = [
    ("redis.url", "UPSTASH_REDIS_REST_URL"),
    ("redis.token", "UPSTASH_REDIS_REST_TOKEN"),
    ("timeout", "TOLLGATE_STORE_TIMEOUT"),
    ("clock", "TOLLGATE_STORE_CLOCK"),
    ("keyPrefix", "TOLLGATE_KEY_PREFIX"),
    ("replicas", "TOLLGATE_REPLICAS"),
    ("denialCache", "TOLLGATE_DENIAL_CACHE"),
    ("denialCacheMaxAge", "TOLLGATE_DENIAL_CACHE_MAX_AGE"),
];

/// Those that are numbers; variables are texts.
const NUMBERS: [&str; 2] = ["replicas", "denialCache"];

mod js {
    use js_sys::Promise;
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen]
    extern "C" {
        /// The context of a request.
        pub(super) type Context;

        #[wasm_bindgen(method, js_name = waitUntil)]
        pub(super) fn wait_until(this: &Context, promise: &Promise);
    }
}
