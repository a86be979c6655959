//! sqlx: its cache of statements, transactions, its pool; over rustls if PGSSLMODE and PGSSLROOTCERT say so.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{Connection, Error, Executor, Row};

use crate::work::{check, clients, fails, same, variable, Outcome, State};

const TABLE: &str = "rust_sqlx";

impl State for Error {
    fn state(&self) -> Option<String> {
        Some(self.as_database_error()?.code()?.into_owned())
    }
}

pub async fn run() {
    let mut admin = open(100).await.expect("the first connection");
    let sql = format!("DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (tag int, round int, word text)");
    admin.execute(sql.as_str()).await.expect("a table for the checks");
    check("cached statements", || open(100), cached).await;
    check("more statements than the cache holds", || open(5), many_texts).await;
    check("statements that are not kept", || open(100), not_kept).await;
    check("transactions and their errors", || open(100), transactions).await;
    check("several statements in one text", || open(100), several).await;
    check("COPY", || open(100), copies).await;
    let pool = PgPoolOptions::new().max_connections(clients() as u32 - 2).connect_with(options(100));
    let pool = pool.await.expect("its pool");
    check("its pool", async || Ok(pool.clone()), pooled).await;
    pool.close().await;
    check("DDL under a cached statement", || open(100), changed_tables).await;
    admin.execute(format!("DROP TABLE {TABLE}").as_str()).await.expect("no table left");
}

fn options(cached: usize) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&variable("PGHOST", "127.0.0.1".to_owned()))
        .port(variable("PGPORT", 6432))
        .username(&variable("PGUSER", "app".to_owned()))
        .database(&variable("PGDATABASE", "postgres".to_owned()))
        .ssl_mode(variable("PGSSLMODE", PgSslMode::Disable))
        .statement_cache_capacity(cached)
}

async fn open(cached: usize) -> Outcome<PgConnection> {
    Ok(PgConnection::connect_with(&options(cached)).await?)
}

/// Every connection calls its statements sqlx_s_1, sqlx_s_2, ...: clients have other texts under the same names.
async fn cached(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    let own = format!("SELECT {tag} * 100 + $1");
    let sum: i32 = sqlx::query_scalar(&own).bind(round).fetch_one(&mut connection).await?;
    same("own text", sum, tag * 100 + round)?;
    let word = format!("word {tag}.{round}");
    let shared = sqlx::query_as("SELECT $1, $2, $3").bind(tag).bind(round).bind(&word);
    let row: (i32, i32, String) = shared.fetch_one(&mut connection).await?;
    same("shared text", row, (tag, round, word))?;
    let divide = format!("SELECT {tag} / $1");
    fails("division", sqlx::query(&divide).bind(0).execute(&mut connection).await, "22012")?;
    let quotient: i32 = sqlx::query_scalar(&divide).bind(1).fetch_one(&mut connection).await?;
    same("division", quotient, tag)?;
    let broken = sqlx::query("SELECT nothing FROM nowhere WHERE 1 = $1").bind(1);
    fails("no such table", broken.execute(&mut connection).await, "42P01")?;
    Ok(connection)
}

/// sqlx closes what falls out of its cache of five.
async fn many_texts(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    for step in 0..4 {
        let text = (round * 4 + step) % 15;
        let sql = format!("SELECT {text}, $1");
        let row: (i32, i32) = sqlx::query_as(&sql).bind(tag).fetch_one(&mut connection).await?;
        same("text", row, (text, tag))?;
    }
    Ok(connection)
}

async fn not_kept(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    let sql = format!("SELECT {tag} + $1");
    let query = sqlx::query_scalar(&sql).bind(round).persistent(false);
    same("sum", query.fetch_one(&mut connection).await?, tag + round)?;
    Ok(connection)
}

async fn transactions(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    let insert = format!("INSERT INTO {TABLE} VALUES ($1, $2, 'kept')");
    let count = format!("SELECT count(*) FROM {TABLE} WHERE tag = $1 AND round = $2");
    sqlx::query(&format!("DELETE FROM {TABLE} WHERE tag = $1")).bind(tag).execute(&mut connection).await?;
    let mut block = connection.begin().await?;
    sqlx::query(&insert).bind(tag).bind(round).execute(&mut *block).await?;
    let mut inner = block.begin().await?;
    sqlx::query(&insert).bind(tag).bind(round).execute(&mut *inner).await?;
    fails("division", sqlx::query("SELECT $1 / 0").bind(tag).execute(&mut *inner).await, "22012")?;
    fails("after it", sqlx::query(&insert).bind(tag).bind(round).execute(&mut *inner).await, "25P02")?;
    inner.rollback().await?;
    let inside: i64 = sqlx::query_scalar(&count).bind(tag).bind(round).fetch_one(&mut *block).await?;
    same("inside", inside, 1)?;
    let kept = round % 2 == 0;
    if kept {
        block.commit().await?;
    } else {
        drop(block); // the ROLLBACK goes out before the next statement
    }
    let after: i64 = sqlx::query_scalar(&count).bind(tag).bind(round).fetch_one(&mut connection).await?;
    same("afterwards", after, i64::from(kept))?;
    Ok(connection)
}

async fn several(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    let sql = format!("SELECT {tag}; SELECT {round}");
    let rows = connection.fetch_all(sql.as_str()).await?;
    same("rows", rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), vec![tag, round])?;
    Ok(connection)
}

async fn copies(mut connection: PgConnection, tag: i32, round: i32) -> Outcome<PgConnection> {
    let mut copy = connection.copy_in_raw(&format!("COPY {TABLE} FROM STDIN")).await?;
    let lines: String = (0..100).map(|number| format!("{tag}\t{}\t{number}\n", 1000 + round)).collect();
    copy.send(lines.as_bytes()).await?;
    same("copied", copy.finish().await?, 100)?;
    let delete = format!("DELETE FROM {TABLE} WHERE tag = $1 AND round >= 1000");
    let deleted = sqlx::query(&delete).bind(tag).execute(&mut connection).await?;
    same("deleted", deleted.rows_affected(), 100)?;
    Ok(connection)
}

async fn pooled(pool: PgPool, tag: i32, round: i32) -> Outcome<PgPool> {
    let sql = format!("SELECT $1 + {}", round % 7);
    let sum: i32 = sqlx::query_scalar(&sql).bind(tag).fetch_one(&pool).await?;
    same("from the pool", sum, tag + round % 7)?;
    Ok(pool)
}

/// sqlx does not prepare again by itself; without its cache the next statement must be right.
async fn changed_tables(mut connection: PgConnection, tag: i32, _round: i32) -> Outcome<PgConnection> {
    let table = format!("{TABLE}_{tag}");
    let text = format!("SELECT * FROM {table} WHERE 1 = $1");
    let make = format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} AS SELECT {tag} AS value");
    connection.execute(make.as_str()).await?;
    connection.clear_cached_statements().await?; // those of the round before
    for _ in 0..4 {
        let value: i32 = sqlx::query_scalar(&text).bind(1).fetch_one(&mut connection).await?;
        same("before", value, tag)?;
    }
    let change = format!("ALTER TABLE {table} ALTER value TYPE text USING 'text {tag}'");
    connection.execute(change.as_str()).await?;
    for _ in 0..4 {
        fails("stale", sqlx::query(&text).bind(1).fetch_one(&mut connection).await, "0A000")?;
    }
    connection.clear_cached_statements().await?;
    for _ in 0..6 {
        let value: String = sqlx::query_scalar(&text).bind(1).fetch_one(&mut connection).await?;
        same("prepared again", value, format!("text {tag}"))?;
    }
    connection.execute(format!("DROP TABLE {table}").as_str()).await?;
    Ok(connection)
}
