//! What both suites share: where the server is, how a check is reported, and many clients working at the same time.

use std::fmt::Debug;
use std::future::Future;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

const LEAST_ROUNDS: i32 = 3;

/// What a check answers: an error's text tells what was wrong.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub fn variable<T: FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

pub fn clients() -> i32 {
    variable("CLIENTS", 12)
}

/// Lets each client do rounds until the time is over: `work` gets its connection back from each round. Prints a line;
/// an error ends the program.
pub async fn check<C, Opening, Working>(name: &str, open: impl Fn() -> Opening, work: impl Fn(C, i32, i32) -> Working)
where
    Opening: Future<Output = Outcome<C>>,
    Working: Future<Output = Outcome<C>>,
{
    let began = Instant::now();
    let time = Duration::from_secs_f64(variable("SECONDS", 1.0));
    let one = async |tag: i32| -> Outcome<i32> {
        let mut connection = open().await?;
        let mut round = 0;
        while round < LEAST_ROUNDS || began.elapsed() < time {
            let worked = work(connection, tag, round).await;
            connection = worked.map_err(|error| format!("client {tag}, round {round}: {error:?}"))?;
            round += 1;
        }
        Ok(round)
    };
    match try_join_all((0..clients()).map(one)).await {
        Ok(rounds) => {
            let total: i32 = rounds.iter().sum();
            println!("ok {name} ({} ms, {total} rounds)", began.elapsed().as_millis());
        }
        Err(error) => {
            println!("FAILED {name}: {error}");
            std::process::exit(1);
        }
    }
}

pub fn same<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: got {got:?}, wanted {wanted:?}").into())
}

/// The SQLSTATE of an error, whichever driver tells it.
pub trait State {
    fn state(&self) -> Option<String>;
}

/// The result must be an error with this SQLSTATE.
pub fn fails<T, E: State + Debug>(what: &str, result: Result<T, E>, wanted: &str) -> Outcome {
    match result {
        Err(error) if error.state().as_deref() == Some(wanted) => Ok(()),
        Err(error) => Err(format!("{what}: got {error:?}, wanted {wanted}").into()),
        Ok(_) => Err(format!("{what}: went well, wanted {wanted}").into()),
    }
}
