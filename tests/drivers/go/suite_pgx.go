package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const pgxTable = "go_pgx"

type pgxWork func(ctx context.Context, conn *pgx.Conn, tag, round int) error

// row is what most checks ask for.
type row struct {
	Tag   int
	Round int
	Word  string
}

func runPgx(ctx context.Context) {
	admin, err := pgx.Connect(ctx, address)
	must(err)
	defer admin.Close(ctx)
	execPgx(ctx, admin, "DROP TABLE IF EXISTS "+pgxTable)
	execPgx(ctx, admin, "CREATE TABLE "+pgxTable+" (tag int, round int, word text)")

	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	for _, mode := range modes {
		checkPgx(ctx, fmt.Sprintf("queries (%s)", mode), mode, pgxQueries)
		checkPgx(ctx, fmt.Sprintf("transactions and their errors (%s)", mode), mode, pgxTransactions)
		checkPgx(ctx, fmt.Sprintf("batches and their errors (%s)", mode), mode, pgxBatches)
	}
	usual := pgx.QueryExecModeCacheStatement
	checkPgx(ctx, "statements with names of their own", usual, pgxNames)
	checkPgx(ctx, "more statements than the driver's cache holds", usual, pgxManyTexts)
	checkPgx(ctx, "pipelines", usual, pgxPipelines)
	checkPgx(ctx, "COPY", usual, pgxCopy)
	check("pgxpool", func() (int, error) { return pgxPool(ctx) })
	checkPgx(ctx, "cancel", usual, pgxCancel)
	checkPgx(ctx, "DDL under a cached statement", usual, pgxChangedTables)
	execPgx(ctx, admin, "DROP TABLE "+pgxTable)
}

func execPgx(ctx context.Context, conn *pgx.Conn, sql string) {
	_, err := conn.Exec(ctx, sql)
	must(err)
}

// checkPgx gives each client a connection of its own. The driver's cache holds less than some checks ask for.
func checkPgx(ctx context.Context, name string, mode pgx.QueryExecMode, work pgxWork) {
	check(name, func() (int, error) {
		return together(func(tag int) (func(int) error, func(), error) {
			config, err := pgx.ParseConfig(address)
			if err != nil {
				return nil, nil, err
			}
			config.DefaultQueryExecMode = mode
			config.StatementCacheCapacity = 20
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				return nil, nil, err
			}
			return func(round int) error { return work(ctx, conn, tag, round) }, func() { conn.Close(ctx) }, nil
		})
	})
}

type querier interface {
	Query(ctx context.Context, sql string, arguments ...any) (pgx.Rows, error)
}

func one[T any](ctx context.Context, by querier, sql string, arguments ...any) (T, error) {
	rows, err := by.Query(ctx, sql, arguments...)
	if err != nil {
		var none T
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
}

// pgxQueries: one text for all clients, and texts that only this client has.
func pgxQueries(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	want := row{tag, round, fmt.Sprintf("word %d.%d", tag, round)}
	rows, err := conn.Query(ctx, "SELECT $1::int AS tag, $2::int AS round, $3::text AS word", tag, round, want.Word)
	if err != nil {
		return err
	}
	got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if err = errors.Join(err, same("shared text", got, want)); err != nil {
		return err
	}
	sum, err := one[int](ctx, conn, fmt.Sprintf("SELECT %d + $1::int", tag*1000+round%5), round)
	return errors.Join(err, same("own text", sum, tag*1000+round%5+round))
}

func pgxTransactions(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	const insert, count = "INSERT INTO " + pgxTable + " VALUES ($1, $2, $3)", "SELECT count(*)::int FROM " + pgxTable +
		" WHERE tag = $1 AND round = $2 AND word = $3"
	word := fmt.Sprintf("%d", time.Now().UnixNano())
	given := errors.New("given up")
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, tag, round, word); err != nil {
			return err
		}
		// A savepoint that fails takes its row along.
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			if _, err := inner.Exec(ctx, insert, tag, round, word); err != nil {
				return err
			}
			_, err := one[int](ctx, inner, "SELECT $1::int / $2::int", tag, 0)
			return err
		})
		if err := fails("division", err, "22012"); err != nil {
			return err
		}
		counted, err := one[int](ctx, tx, count, tag, round, word)
		if err := errors.Join(err, same("rows in the block", counted, 1)); err != nil {
			return err
		}
		if round%2 == 0 {
			return nil
		}
		_, err = one[int](ctx, tx, fmt.Sprintf("SELECT %d / $1::int", tag), 0)
		_, after := one[int](ctx, tx, fmt.Sprintf("SELECT %d / $1::int", tag), 1)
		return errors.Join(given, fails("division", err, "22012"), fails("after it", after, "25P02"))
	})
	if round%2 == 1 && errors.Is(err, given) && err.Error() == given.Error() {
		err = nil
	}
	counted, another := one[int](ctx, conn, count, tag, round, word)
	return errors.Join(err, another, same("rows after the block", counted, 1-round%2))
}

// pgxBatches sends several statements with one Sync; the second batch fails in its middle.
func pgxBatches(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	batch := &pgx.Batch{}
	var sums []int
	for number := range 10 {
		batch.Queue("SELECT $1::int + $2::int", tag, number).QueryRow(func(row pgx.Row) error {
			sums = append(sums, 0)
			return row.Scan(&sums[number])
		})
		batch.Queue(fmt.Sprintf("SELECT %d, $1::int", tag), number)
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	for number, sum := range sums {
		if err := same("sum in a batch", sum, tag+number); err != nil {
			return err
		}
	}
	broken := &pgx.Batch{}
	broken.Queue("INSERT INTO "+pgxTable+" VALUES ($1, -1, 'lost')", tag)
	broken.Queue("SELECT $1::int / $2::int", tag, round%2)
	broken.Queue("SELECT $1::int / $2::int", tag, 0)
	broken.Queue("SELECT $1::int + $2::int", tag, 1)
	err := fails("batch", conn.SendBatch(ctx, broken).Close(), "22012")
	lost, another := one[int](ctx, conn, "SELECT count(*)::int FROM "+pgxTable+" WHERE round = $1", -1)
	return errors.Join(err, another, same("rows of a failed batch", lost, 0))
}

// pgxNames: all clients use the same names, with other texts.
func pgxNames(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	name := fmt.Sprintf("name%d", round%5)
	if _, err := conn.Prepare(ctx, name, fmt.Sprintf("SELECT %d * 100 + $1::int", tag)); err != nil {
		return err
	}
	for number := range 5 {
		sum, err := one[int](ctx, conn, name, number)
		if err := errors.Join(err, same("named", sum, tag*100+number)); err != nil {
			return err
		}
	}
	_, err := conn.Prepare(ctx, "broken", "SELECT nothing FROM nowhere")
	if err := fails("Prepare", err, "42P01"); err != nil {
		return err
	}
	if _, err := conn.Prepare(ctx, "broken", "SELECT 'mended'"); err != nil {
		return err
	}
	mended, err := one[string](ctx, conn, "broken")
	return errors.Join(err, same("mended", mended, "mended"), conn.Deallocate(ctx, name), conn.Deallocate(ctx, "broken"))
}

// pgxManyTexts: the driver closes what falls out of its cache of 20, and prepares it again later.
func pgxManyTexts(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	for step := range 5 {
		text := (round*5 + step) % 30
		value, err := one[string](ctx, conn, fmt.Sprintf("SELECT %d || ' ' || $1::text", text), fmt.Sprint(tag))
		if err := errors.Join(err, same("text", value, fmt.Sprintf("%d %d", text, tag))); err != nil {
			return err
		}
	}
	return nil
}

// pgxPipelines: several Syncs on their way at once, the middle one fails.
func pgxPipelines(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	const name = "in_pipeline"
	statement, err := conn.Prepare(ctx, name, fmt.Sprintf("SELECT %d / $1::int", tag*6))
	if err != nil {
		return err
	}
	pipeline := conn.PgConn().StartPipeline(ctx)
	defer pipeline.Close()
	divisors := []string{"1", "0", "3"}
	for _, divisor := range divisors {
		pipeline.SendQueryPrepared(statement.Name, [][]byte{[]byte(divisor)}, nil, nil)
		if err := pipeline.Sync(); err != nil {
			return err
		}
	}
	seen := []string{}
	for range divisors {
		result, err := pipeline.GetResults()
		if reader, ok := result.(*pgconn.ResultReader); ok && err == nil {
			read := reader.Read()
			if err = read.Err; err == nil {
				seen = append(seen, string(read.Rows[0][0]))
			}
		}
		if err != nil {
			if err := fails("in a pipeline", err, "22012"); err != nil {
				return err
			}
			seen = append(seen, "22012")
		}
		if synced, err := pipeline.GetResults(); err != nil {
			return err
		} else if _, ok := synced.(*pgconn.PipelineSync); !ok {
			return fmt.Errorf("in a pipeline: got %T, wanted a Sync's end", synced)
		}
	}
	return same("pipeline", seen, []string{fmt.Sprint(tag * 6), "22012", fmt.Sprint(tag * 2)})
}

func pgxCopy(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	rows := make([][]any, 200)
	for number := range rows {
		rows[number] = []any{tag, 1000 + round, fmt.Sprint(number)}
	}
	columns := []string{"tag", "round", "word"}
	copied, err := conn.CopyFrom(ctx, pgx.Identifier{pgxTable}, columns, pgx.CopyFromRows(rows))
	if err := errors.Join(err, same("copied", copied, int64(200))); err != nil {
		return err
	}
	const sum = "DELETE FROM " + pgxTable + " WHERE tag = $1 AND round = $2"
	deleted, err := conn.Exec(ctx, sum, tag, 1000+round)
	return errors.Join(err, same("deleted", deleted.RowsAffected(), int64(200)))
}

func pgxPool(ctx context.Context) (int, error) {
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return 0, err
	}
	config.MaxConns = int32(clients) - 2 // clients change their connections too
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	return together(func(tag int) (func(int) error, func(), error) {
		return func(round int) error {
			want := tag*100 + round%7
			sum, err := one[int](ctx, pool, fmt.Sprintf("SELECT $1::int + %d", round%7), tag*100)
			return errors.Join(err, same("from the pool", sum, want))
		}, func() {}, nil
	})
}

// pgxChangedTables: pgx forgets a statement whose plan was refused, so only one error may show for each change.
func pgxChangedTables(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	table := fmt.Sprintf("%s_%d", pgxTable, tag)
	read := func() (string, error) {
		rows, err := conn.Query(ctx, "SELECT * FROM "+table+" WHERE 1 = $1", 1)
		if err != nil {
			return "", err
		}
		values, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		return fmt.Sprint(values), err
	}
	steps := []struct{ change, want string }{
		{fmt.Sprintf("CREATE TABLE %s AS SELECT %d AS value", table, tag), fmt.Sprintf("map[value:%d]", tag)},
		{fmt.Sprintf("ALTER TABLE %s ALTER value TYPE text USING 'text %d'", table, tag),
			fmt.Sprintf("map[value:text %d]", tag)},
		{fmt.Sprintf("ALTER TABLE %s ADD added int DEFAULT 5", table), fmt.Sprintf("map[added:5 value:text %d]", tag)},
	}
	if _, err := conn.Exec(ctx, "DROP TABLE IF EXISTS "+table); err != nil {
		return err
	}
	for _, step := range steps {
		if _, err := conn.Exec(ctx, step.change); err != nil {
			return err
		}
		refused := 0
		for range 6 {
			got, err := read()
			if err != nil && refused == 0 && fails("", err, "0A000") == nil {
				refused++
				continue
			}
			if err := errors.Join(err, same("after "+step.change, got, step.want)); err != nil {
				return err
			}
		}
	}
	_, err := conn.Exec(ctx, "DROP TABLE "+table)
	return err
}

func pgxCancel(ctx context.Context, conn *pgx.Conn, tag, round int) error {
	err := cancels(func(after time.Duration) error {
		asked := make(chan error)
		go func() {
			time.Sleep(after)
			asked <- conn.PgConn().CancelRequest(ctx)
		}()
		_, err := conn.Exec(ctx, "SELECT pg_sleep($1)", 2)
		return errors.Join(<-asked, err)
	})
	value, another := one[int](ctx, conn, "SELECT $1::int", tag)
	return errors.Join(err, another, same("after the cancellation", value, tag))
}
