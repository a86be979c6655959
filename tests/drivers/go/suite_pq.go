package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"
)

const pqTable = "go_pq"

type pqWork func(ctx context.Context, conn *sql.Conn, tag, round int) error

func runPq(ctx context.Context) {
	db, err := sql.Open("postgres", address)
	must(err)
	defer db.Close()
	_, err = db.Exec("DROP TABLE IF EXISTS " + pqTable)
	must(err)
	_, err = db.Exec("CREATE TABLE " + pqTable + " (tag int, round int, word text)")
	must(err)

	checkPq(ctx, "prepared statements", "", pqPrepared)
	checkPq(ctx, "unnamed statements, bound after a Sync", "", pqUnnamed)
	checkPq(ctx, "unnamed statements in one go", " binary_parameters=yes", pqUnnamed)
	checkPq(ctx, "transactions and their errors", "", pqTransactions)
	checkPq(ctx, "COPY", "", pqCopy)
	check("the pool of database/sql", func() (int, error) { return pqPool(ctx) })
	check("cancel by context", func() (int, error) { return pqCancel(ctx) })
	_, err = db.Exec("DROP TABLE " + pqTable)
	must(err)
}

// checkPq gives each client a connection of its own.
func checkPq(ctx context.Context, name, options string, work pqWork) {
	check(name, func() (int, error) {
		db, err := sql.Open("postgres", address+options)
		if err != nil {
			return 0, err
		}
		defer db.Close()
		return together(func(tag int) (func(int) error, func(), error) {
			conn, err := db.Conn(ctx)
			if err != nil {
				return nil, nil, err
			}
			return func(round int) error { return work(ctx, conn, tag, round) }, func() { conn.Close() }, nil
		})
	})
}

// pqPrepared: a statement for this round, used several times between others.
func pqPrepared(ctx context.Context, conn *sql.Conn, tag, round int) error {
	shared, err := conn.PrepareContext(ctx, "SELECT $1::int, $2::int, $3::text")
	if err != nil {
		return err
	}
	defer shared.Close()
	own, err := conn.PrepareContext(ctx, fmt.Sprintf("SELECT %d + $1::int", tag*100))
	if err != nil {
		return err
	}
	defer own.Close()
	for number := range 5 {
		want := row{tag, round, fmt.Sprintf("word %d", number)}
		var got row
		err := shared.QueryRow(tag, round, want.Word).Scan(&got.Tag, &got.Round, &got.Word)
		if err := errors.Join(err, same("shared text", got, want)); err != nil {
			return err
		}
		var sum int
		err = own.QueryRow(number).Scan(&sum)
		if err := errors.Join(err, same("own text", sum, tag*100+number)); err != nil {
			return err
		}
	}
	_, err = conn.PrepareContext(ctx, "SELECT nothing FROM nowhere")
	return fails("Prepare", err, "42P01")
}

// pqUnnamed: without binary_parameters lib/pq sends Parse and Sync, and binds only when that was answered.
func pqUnnamed(ctx context.Context, conn *sql.Conn, tag, round int) error {
	var got, want row
	want = row{tag, round, fmt.Sprintf("word %d.%d", tag, round)}
	err := conn.QueryRowContext(ctx, fmt.Sprintf("SELECT %d, $1::int, $2::text", tag), round, want.Word).
		Scan(&got.Tag, &got.Round, &got.Word)
	if err := errors.Join(err, same("own text", got, want)); err != nil {
		return err
	}
	err = conn.QueryRowContext(ctx, "SELECT $1::int, $2::int, $3::text", tag, round, want.Word).
		Scan(&got.Tag, &got.Round, &got.Word)
	_, another := conn.ExecContext(ctx, "SELECT $1::int / 0", tag)
	return errors.Join(err, same("shared text", got, want), fails("division", another, "22012"))
}

func pqTransactions(ctx context.Context, conn *sql.Conn, tag, round int) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, err := tx.Prepare("INSERT INTO " + pqTable + " VALUES ($1, $2, $3)")
	if err != nil {
		return err
	}
	word := fmt.Sprintf("%d", time.Now().UnixNano())
	for range 3 {
		if _, err := insert.Exec(tag, round, word); err != nil {
			return err
		}
	}
	kept := 3
	if round%2 == 0 {
		err = tx.Commit()
	} else {
		kept = 0
		divide, another := tx.Prepare("SELECT $1::int / $2::int")
		if another != nil {
			return another
		}
		_, broken := divide.Exec(tag, 0)
		_, after := insert.Exec(tag, round, word)
		err = errors.Join(fails("division", broken, "22012"), fails("after it", after, "25P02"), tx.Rollback())
	}
	var count int
	const sql = "SELECT count(*) FROM " + pqTable + " WHERE tag = $1 AND word = $2"
	return errors.Join(err, conn.QueryRowContext(ctx, sql, tag, word).Scan(&count), same("rows", count, kept))
}

func pqCopy(ctx context.Context, conn *sql.Conn, tag, round int) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	into, err := tx.Prepare(pq.CopyIn(pqTable, "tag", "round", "word"))
	if err != nil {
		return err
	}
	for number := range 200 {
		if _, err := into.Exec(tag, 1000+round, fmt.Sprint(number)); err != nil {
			return err
		}
	}
	if _, err := into.Exec(); err != nil {
		return err
	}
	if err := errors.Join(into.Close(), tx.Commit()); err != nil {
		return err
	}
	result, err := conn.ExecContext(ctx, "DELETE FROM "+pqTable+" WHERE tag = $1 AND round = $2", tag, 1000+round)
	if err != nil {
		return err
	}
	deleted, err := result.RowsAffected()
	return errors.Join(err, same("deleted", deleted, int64(200)))
}

// pqPool: a statement of the pool is prepared anew on each connection on which it comes to run.
func pqPool(ctx context.Context) (int, error) {
	db, err := sql.Open("postgres", address)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxOpenConns(clients - 2) // clients change their connections too
	db.SetMaxIdleConns(clients - 2)
	shared, err := db.Prepare("SELECT $1::int + $2::int")
	if err != nil {
		return 0, err
	}
	defer shared.Close()
	return together(func(tag int) (func(int) error, func(), error) {
		return func(round int) error {
			var sum, own int
			err := shared.QueryRow(tag, round).Scan(&sum)
			another := db.QueryRowContext(ctx, fmt.Sprintf("SELECT %d - $1::int", tag), round).Scan(&own)
			return errors.Join(err, another, same("sum", sum, tag+round), same("difference", own, tag-round))
		}, func() {}, nil
	})
}

// pqCancel: lib/pq gives up the connection of a cancelled statement, so the pool is asked.
func pqCancel(ctx context.Context) (int, error) {
	db, err := sql.Open("postgres", address)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return together(func(tag int) (func(int) error, func(), error) {
		return func(round int) error {
			err := cancels(func(after time.Duration) error {
				limited, stop := context.WithTimeout(ctx, after)
				defer stop()
				_, err := db.ExecContext(limited, "SELECT pg_sleep(2)")
				if errors.Is(err, context.DeadlineExceeded) {
					return nil // it was over before the statement was sent
				}
				return err
			})
			var value int
			another := db.QueryRowContext(ctx, "SELECT $1::int", tag).Scan(&value)
			return errors.Join(err, another, same("after the cancellation", value, tag))
		}, func() {}, nil
	})
}
