//! tokio-postgres: prepared statements, pipelines by joining futures, transactions, portals, COPY, cancelling.

use std::time::Duration;

use futures_util::{future::join_all, future::try_join_all, join, pin_mut, SinkExt, TryStreamExt};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use crate::work::{check, fails, same, variable, Outcome, State};

const TABLE: &str = "rust_tokio";

impl State for Error {
    fn state(&self) -> Option<String> {
        self.code().map(|state| state.code().to_owned())
    }
}

pub async fn run() {
    let admin = open().await.expect("the first connection");
    let sql = format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (tag int, round int, word text)");
    admin.batch_execute(&sql).await.expect("a table for the checks");
    check("prepared statements", open, prepared).await;
    check("statements prepared once", open_prepared, reused).await;
    check("pipelines", open, pipelines).await;
    check("errors in pipelines", open, errors_in_pipelines).await;
    check("transactions and their errors", open, transactions).await;
    check("portals", open, portals).await;
    check("COPY", open, copies).await;
    check("cancel", open, cancelled).await;
    check("types that the driver must ask for", open, types).await;
    check("DDL under a prepared statement", open, changed_tables).await;
    admin.batch_execute(&format!("DROP TABLE {TABLE}")).await.expect("no table left");
}

async fn open() -> Outcome<Client> {
    let mut config = Config::new();
    config.host(variable("PGHOST", "127.0.0.1".to_owned())).port(variable("PGPORT", 6432));
    config.user(variable("PGUSER", "app".to_owned())).dbname(variable("PGDATABASE", "postgres".to_owned()));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Prepared anew each round; a statement that is dropped is closed while the next one is on its way.
async fn prepared(client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let shared = client.prepare("SELECT $1::int, $2::int, $3::text").await?;
    let own = client.prepare(&format!("SELECT {tag} * 100 + $1::int")).await?;
    for number in 0..4 {
        let word = format!("word {tag}.{round}.{number}");
        let row = client.query_one(&shared, &[&tag, &round, &word]).await?;
        same("shared text", (row.get(0), row.get(1), row.get(2)), (tag, round, word))?;
        same("own text", client.query_one(&own, &[&number]).await?.get(0), tag * 100 + number)?;
    }
    fails("prepare", client.prepare("SELECT nothing FROM nowhere").await, "42P01")?;
    let divide = format!("SELECT {tag} / $1::int");
    fails("division", client.query(&divide, &[&0]).await, "22012")?;
    same("division", client.query_one(&divide, &[&1]).await?.get(0), tag)?;
    Ok(client)
}

async fn open_prepared() -> Outcome<(Client, Vec<tokio_postgres::Statement>)> {
    let client = open().await?;
    let texts: Vec<String> = (0..12).map(|number| format!("SELECT {number}, $1::text")).collect();
    let statements = try_join_all(texts.iter().map(|text| client.prepare(text))).await?;
    Ok((client, statements))
}

/// Twelve statements over the whole check, each from its own client's name.
async fn reused(
    (client, statements): (Client, Vec<tokio_postgres::Statement>),
    tag: i32,
    round: i32,
) -> Outcome<(Client, Vec<tokio_postgres::Statement>)> {
    let number = (tag + round) % 12;
    let word = format!("{tag} {round}");
    let row = client.query_one(&statements[number as usize], &[&word]).await?;
    same("reused", (row.get(0), row.get(1)), (number, word))?;
    Ok((client, statements))
}

/// Futures polled together are sent together, without waiting for each other's answers.
async fn pipelines(client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let statement = client.prepare(&format!("SELECT {tag} + $1::int")).await?;
    let numbers: Vec<i32> = (0..20).map(|number| number + round).collect();
    let values: Vec<[&(dyn ToSql + Sync); 1]> = numbers.iter().map(|number| [number as _]).collect();
    let known = join_all(values.iter().map(|value| client.query_one(&statement, value)));
    let unknown = join_all(numbers.iter().map(|number| ask_word(&client, tag, number % 7)));
    let (known, unknown) = join!(known, unknown);
    for (row, number) in known.into_iter().zip(&numbers) {
        same("in a pipeline", row?.get(0), tag + number)?;
    }
    for (text, number) in unknown.into_iter().zip(&numbers) {
        same("prepared in a pipeline", text?, format!("{} {tag}", number % 7))?;
    }
    Ok(client)
}

async fn ask_word(client: &Client, tag: i32, number: i32) -> Result<String, Error> {
    let row = client.query_one(&format!("SELECT '{number} ' || $1::text"), &[&tag.to_string()]).await?;
    Ok(row.get(0))
}

async fn errors_in_pipelines(client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let divide = client.prepare("SELECT $1::int / $2::int").await?;
    let quotient = async |divisor: i32| -> Result<i32, Error> {
        Ok(client.query_one(&divide, &[&(tag * 6), &divisor]).await?.get(0))
    };
    let broken = async { client.query_one("SELECT $1::int FROM nowhere", &[&round]).await };
    let (first, second, third, fourth) = join!(quotient(1), quotient(0), broken, quotient(2));
    same("first", first?, tag * 6)?;
    fails("second", second, "22012")?;
    fails("third", third, "42P01")?;
    same("fourth", fourth?, tag * 3)?;
    Ok(client)
}

async fn transactions(mut client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let insert = client.prepare(&format!("INSERT INTO {TABLE} VALUES ($1, $2, $3)")).await?;
    let count = format!("SELECT count(*) FROM {TABLE} WHERE tag = $1 AND round = $2 AND word = 'kept'");
    client.execute(&format!("DELETE FROM {TABLE} WHERE tag = $1"), &[&tag]).await?;
    let mut block = client.transaction().await?;
    block.execute(&insert, &[&tag, &round, &"kept"]).await?;
    let inner = block.savepoint("within").await?;
    inner.execute(&insert, &[&tag, &round, &"kept"]).await?;
    fails("division", inner.query("SELECT $1::int / 0", &[&tag]).await, "22012")?;
    fails("after it", inner.execute(&insert, &[&tag, &round, &"kept"]).await, "25P02")?;
    inner.rollback().await?;
    same("inside", block.query_one(&count, &[&tag, &round]).await?.get(0), 1i64)?;
    let kept = round % 2 == 0;
    if kept {
        block.commit().await?;
    } else {
        drop(block); // the ROLLBACK is sent, nobody waits for its answer
    }
    same("afterwards", client.query_one(&count, &[&tag, &round]).await?.get(0), i64::from(kept))?;
    Ok(client)
}

/// Two portals of one statement, fetched in turn.
async fn portals(mut client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let block = client.transaction().await?;
    let series = block.prepare("SELECT n, $1::int FROM generate_series(1, $2::int) n").await?;
    let first = block.bind(&series, &[&tag, &50]).await?;
    let second = block.bind(&series, &[&(tag + 1000), &50]).await?;
    let mut expected = 0;
    for _ in 0..(2 + round % 3) {
        let (ours, others) = join!(block.query_portal(&first, 15), block.query_portal(&second, 15));
        for (row, other) in ours?.iter().zip(others?) {
            expected += 1;
            same("portals", (row.get(0), row.get(1)), (expected, tag))?;
            same("portals", (other.get(0), other.get(1)), (expected, tag + 1000))?;
        }
    }
    same("rows", expected, [30, 45, 50][(round % 3) as usize])?;
    block.commit().await?;
    Ok(client)
}

async fn copies(client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let sink = client.copy_in(&format!("COPY {TABLE} FROM STDIN")).await?;
    pin_mut!(sink);
    for number in 0..100 {
        sink.send(std::io::Cursor::new(format!("{tag}\t{}\t{number}\n", 1000 + round))).await?;
    }
    same("copied", sink.finish().await?, 100)?;
    let out = format!("COPY (SELECT tag FROM {TABLE} WHERE tag = {tag} AND round = {}) TO STDOUT", 1000 + round);
    let lines: Vec<_> = client.copy_out(&out).await?.try_collect().await?;
    same("copied out", lines.len(), 100)?;
    same("of this client", lines.iter().all(|line| line[..] == *format!("{tag}\n").as_bytes()), true)?;
    let deleted = client.execute(&format!("DELETE FROM {TABLE} WHERE tag = $1 AND round >= 1000"), &[&tag]).await?;
    same("deleted", deleted, 100)?;
    Ok(client)
}

/// For a type that it does not know the driver prepares and runs queries of its own while it prepares ours.
async fn types(client: Client, tag: i32, round: i32) -> Outcome<Client> {
    let kind = format!("{TABLE}_kind_{tag}");
    let make = format!("DROP TYPE IF EXISTS {kind}; CREATE TYPE {kind} AS ENUM ('one{tag}', 'two{tag}')");
    client.batch_execute(&make).await?;
    let value = client.query_one(&format!("SELECT ('two' || $1::text)::{kind}"), &[&tag.to_string()]).await?;
    same("name of the type", value.columns()[0].type_().name(), &kind)?;
    let simple = client.simple_query(&format!("SELECT 'one{tag}'::{kind}, {round}")).await?;
    let row = simple.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    same("simple", row, Some(format!("one{tag}")))?;
    client.batch_execute(&format!("DROP TYPE {kind}")).await?;
    Ok(client)
}

/// A plan that has become stale is refused with 0A000, as PostgreSQL does, or right; prepared again it must be right.
async fn changed_tables(client: Client, tag: i32, _round: i32) -> Outcome<Client> {
    let table = format!("{TABLE}_{tag}");
    let text = format!("SELECT * FROM {table} WHERE 1 = $1");
    let make = format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} AS SELECT {tag} AS value");
    client.batch_execute(&make).await?;
    let stale = client.prepare(&text).await?;
    for _ in 0..4 {
        same("before", client.query_one(&stale, &[&1]).await?.get(0), tag)?;
    }
    client.batch_execute(&format!("ALTER TABLE {table} ALTER value TYPE text USING 'text {tag}'")).await?;
    let wanted = format!("text {tag}");
    for _ in 0..6 {
        // The driver reads what it gets as an int: the answer must not be a text all of a sudden.
        fails("stale", client.query_one(&stale, &[&1]).await, "0A000")?;
        same("prepared again", client.query_one(&text, &[&1]).await?.get(0), wanted.as_str())?;
    }
    client.batch_execute(&format!("DROP TABLE {table}")).await?;
    Ok(client)
}

/// A request that overtakes its statement has no effect, so there are some attempts.
async fn cancelled(client: Client, tag: i32, _round: i32) -> Outcome<Client> {
    let token = client.cancel_token();
    let sleep = client.prepare("SELECT 1 FROM pg_sleep($1)").await?;
    let mut attempts = 0;
    loop {
        let request = async {
            tokio::time::sleep(Duration::from_millis(20 + attempts * 100)).await;
            token.cancel_query(NoTls).await
        };
        let (slept, requested) = join!(client.query(&sleep, &[&2.0]), request);
        requested?;
        attempts += 1;
        if slept.is_err() || attempts == 5 {
            fails("sleep", slept, "57014")?;
            break;
        }
    }
    same("after the cancellation", client.query_one("SELECT $1::int", &[&tag]).await?.get(0), tag)?;
    Ok(client)
}
