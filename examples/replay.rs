//! x
#[derive(clap::Parser)]
struct A {
    #[command(flatten)]
    a: strikeout::replay::command::Args,
}
fn main() -> std::process::ExitCode {
    strikeout::replay::command::run(&<A as clap::Parser>::parse().a)
}
