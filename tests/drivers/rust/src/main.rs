//! Checks a Rust driver against the server that PGHOST, PGPORT, PGUSER and PGDATABASE name: `drivers tokio|sqlx`.
//!
//! CLIENTS clients work at the same time for SECONDS seconds a check; each one checks that every row is its own.

mod suite_sqlx;
mod suite_tokio;
mod work;

#[tokio::main(worker_threads = 2)]
async fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("tokio") => suite_tokio::run().await,
        Some("sqlx") => suite_sqlx::run().await,
        _ => {
            println!("usage: drivers tokio|sqlx");
            std::process::exit(2);
        }
    }
    println!("all checks passed");
}
