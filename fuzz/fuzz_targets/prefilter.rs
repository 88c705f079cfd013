//! The expressions for Squid against the built-in rules: whatever a URL and a User-Agent are, a request that offends a rule is asked about.
#![no_main]

#[path = "../../tests/prefilter/model.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::Model;
use strikeout::internals::engine::Engine;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::prefilter::Prefilter;
use strikeout::internals::rule::set::Scratch;
use strikeout_fuzz::{engine, parts};

thread_local! {
    static ENGINE: std::sync::Arc<Engine> = engine();
    static MODEL: Model = ENGINE.with(|engine| Model::new(&Prefilter::of(engine.policy().rules.rules())));
}

fuzz_target!(|data: &[u8]| {
    let [path, user_agent] = parts::<2>(data);
    // Squid refuses a URL with control characters and removes blanks from it.
    if path.iter().any(|byte| *byte <= b' ') {
        return;
    }
    let url = [b"http://www.example.org/", path].concat();
    let request = Request { method: b"GET", url: &url, user_agent: Header::plain(user_agent), ..Request::default() };
    let offended = ENGINE.with(|engine| engine.policy().rules.offended_by_request(&request, &mut Scratch::default()));
    if let Some(rule) = offended.first() {
        assert!(MODEL.with(|model| model.asks(&request)), "{} would not be asked about", rule.name);
    }
});
