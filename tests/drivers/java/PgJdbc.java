import static java.util.stream.IntStream.range;

import java.io.StringReader;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Arrays;
import java.util.Properties;
import java.util.Timer;
import java.util.TimerTask;
import org.postgresql.PGConnection;
import org.postgresql.largeobject.LargeObjectManager;

/** Server-prepared from the first use on: queries, batches, fetch sizes, large objects, autosave, cancelling. */
final class PgJdbc {
    private static final String TABLE = "java_pgjdbc";

    /** What one client does in a round. */
    private interface Work {
        void round(Connection connection, int tag, int round) throws Exception;
    }

    static void run() throws Exception {
        try (Connection admin = connect()) {
            execute(admin, "DROP TABLE IF EXISTS " + TABLE);
            execute(admin, "CREATE TABLE " + TABLE + " (tag int, round int, word text)");
            check("prepared statements", PgJdbc::preparedStatements);
            check("prepared statements, binary from the start", PgJdbc::preparedStatements, "prepareThreshold=-1");
            check("statements that the driver keeps", PgJdbc::preparedStatements, "preferQueryMode=extendedCacheEverything");
            check("unnamed statements", PgJdbc::preparedStatements, "prepareThreshold=0");
            check("the simple protocol", PgJdbc::preparedStatements, "preferQueryMode=simple");
            check("more statements than the driver keeps", PgJdbc::manyTexts, "preparedStatementCacheQueries=5");
            check("transactions and their errors", PgJdbc::transactions);
            check("batches and their errors", PgJdbc::batches);
            check("batches rewritten", PgJdbc::batches, "reWriteBatchedInserts=true");
            check("fetch size", PgJdbc::fetchSize);
            check("autosave=always", PgJdbc::autosave, "autosave=always");
            check("large objects", PgJdbc::largeObjects);
            check("COPY", PgJdbc::copies);
            check("cancel", PgJdbc::cancels);
            check("DDL under a prepared statement", PgJdbc::changedTables);
            check("DDL with autosave=always", PgJdbc::changedTables, "autosave=always");
            execute(admin, "DROP TABLE " + TABLE);
        }
    }

    private static Connection connect(String... options) throws SQLException {
        var words = new Properties();
        words.setProperty("user", Drivers.variable("PGUSER", "app"));
        words.setProperty("prepareThreshold", "1");
        if (!Drivers.variable("PGSSLMODE", "").isEmpty()) {
            words.setProperty("sslmode", Drivers.variable("PGSSLMODE", ""));
            words.setProperty("sslrootcert", Drivers.variable("PGSSLROOTCERT", ""));
        }
        for (String option : options) {
            words.setProperty(option.split("=")[0], option.split("=")[1]);
        }
        String address = Drivers.variable("PGHOST", "127.0.0.1") + ":" + Drivers.variable("PGPORT", "6432");
        return DriverManager.getConnection("jdbc:postgresql://" + address + "/" + Drivers.variable("PGDATABASE", "app"), words);
    }

    /** Each client has a connection of its own with these options. */
    private static void check(String name, Work work, String... options) throws InterruptedException {
        Drivers.check(name, tag -> {
            Connection connection = connect(options);
            return new Drivers.Client() {
                @Override
                public void round(int round) throws Exception {
                    work.round(connection, tag, round);
                }

                @Override
                public void close() throws SQLException {
                    connection.close();
                }
            };
        });
    }

    private static void execute(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            bind(statement, values);
            statement.execute();
        }
    }

    /** The columns of the only row, joined by spaces. */
    private static String ask(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            bind(statement, values);
            try (ResultSet rows = statement.executeQuery()) {
                int columns = rows.getMetaData().getColumnCount();
                Drivers.same("a row", rows.next(), true);
                String[] row = new String[columns];
                for (int column = 0; column < columns; column++) {
                    row[column] = rows.getString(column + 1);
                }
                Drivers.same("another row", rows.next(), false);
                return String.join(" ", row);
            }
        }
    }

    private static void bind(PreparedStatement statement, Object... values) throws SQLException {
        for (int position = 0; position < values.length; position++) {
            statement.setObject(position + 1, values[position]);
        }
    }

    /** Every connection calls its statements S_1, S_2, ...: clients have other texts under the same names. */
    private static void preparedStatements(Connection connection, int tag, int round) throws Exception {
        try (var own = connection.prepareStatement("SELECT " + tag + " AS tag, ?::int AS round, ?::text AS word")) {
            for (int turn = 0; turn < 4; turn++) {
                bind(own, round, "word " + turn);
                try (ResultSet rows = own.executeQuery()) {
                    rows.next();
                    String got = rows.getInt("tag") + " " + rows.getInt("round") + " " + rows.getString("word");
                    Drivers.same("own text", got, tag + " " + round + " word " + turn);
                }
            }
        }
        String sum = ask(connection, "SELECT ?::int + " + (tag * 100 + round % 5), round);
        Drivers.same("changing texts", sum, "" + (round + tag * 100 + round % 5));
        Drivers.same("shared text", ask(connection, "SELECT ?::int, ?::text", tag, "x"), tag + " x");
        Drivers.fails("22012", () -> ask(connection, "SELECT ?::int / 0", round));
        Drivers.fails("42P01", () -> ask(connection, "SELECT ?::int FROM nowhere", round));
    }

    /** The driver closes what falls out of its cache of five. */
    private static void manyTexts(Connection connection, int tag, int round) throws Exception {
        for (int step = 0; step < 4; step++) {
            int text = (round * 4 + step) % 15;
            Drivers.same("text", ask(connection, "SELECT " + text + ", ?::int", tag), text + " " + tag);
        }
    }

    private static void transactions(Connection connection, int tag, int round) throws Exception {
        String insert = "INSERT INTO " + TABLE + " VALUES (?, ?, ?)";
        String count = "SELECT count(*) FROM " + TABLE + " WHERE tag = ? AND word = ?";
        String word = "" + System.nanoTime();
        connection.setAutoCommit(false);
        execute(connection, insert, tag, round, word);
        var savepoint = connection.setSavepoint();
        execute(connection, insert, tag, round, word);
        Drivers.fails("22012", () -> ask(connection, "SELECT ?::int / ?::int", tag, 0));
        Drivers.fails("25P02", () -> ask(connection, "SELECT ?::int / ?::int", tag, 1));
        connection.rollback(savepoint);
        Drivers.same("inside", ask(connection, count, tag, word), "1");
        boolean kept = round % 2 == 0;
        if (kept) {
            connection.commit();
        } else {
            connection.rollback();
        }
        connection.setAutoCommit(true);
        Drivers.same("afterwards", ask(connection, count, tag, word), kept ? "1" : "0");
    }

    private static void batches(Connection connection, int tag, int round) throws Exception {
        String insert = "INSERT INTO " + TABLE + " (tag, round, word) VALUES (?, ?, ?)";
        String count = "SELECT count(*), count(DISTINCT word) FROM " + TABLE + " WHERE tag = ? AND round = ?";
        execute(connection, "DELETE FROM " + TABLE + " WHERE tag = ?", tag);
        try (var statement = connection.prepareStatement(insert)) {
            for (int number = 0; number < 150; number++) { // rewritten, the driver makes 128 + 16 + 4 + 2 of it
                bind(statement, tag, round, "word " + number);
                statement.addBatch();
            }
            int[] counts = statement.executeBatch();
            Drivers.same("counts", counts.length, 150);
            Drivers.same("rows", ask(connection, count, tag, round), "150 150");
        }
        try (var statement = connection.prepareStatement("UPDATE " + TABLE + " SET round = ? WHERE tag = ? AND word = ?")) {
            for (int number = 0; number < 20; number++) {
                bind(statement, -1, tag, "word " + number);
                statement.addBatch();
            }
            Drivers.same("updates", Arrays.equals(statement.executeBatch(), range(0, 20).map(n -> 1).toArray()), true);
        }
        // The fifth of ten fails: without autocommit nothing of the batch stays.
        connection.setAutoCommit(false);
        try (var statement = connection.prepareStatement("INSERT INTO " + TABLE + " VALUES (?, -2 / ?, 'lost')")) {
            for (int number = 0; number < 10; number++) {
                bind(statement, tag, 4 - number);
                statement.addBatch();
            }
            SQLException failed = Drivers.fails("22012", statement::executeBatch);
            Drivers.same("kind of error", failed instanceof BatchUpdateException, true);
        }
        connection.rollback();
        connection.setAutoCommit(true);
        Drivers.same("lost rows", ask(connection, count, tag, -2), "0 0");
    }

    /** Without autocommit a result comes in portions of a named portal. */
    private static void fetchSize(Connection connection, int tag, int round) throws Exception {
        connection.setAutoCommit(false);
        try (var statement = connection.prepareStatement("SELECT n, ?::int FROM generate_series(1, ?::int) n")) {
            statement.setFetchSize(30);
            bind(statement, tag, 100);
            int expected = 1;
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next() && (round % 2 == 0 || expected <= 60)) {
                    Drivers.same("row", rows.getInt(1) + " " + rows.getInt(2), expected++ + " " + tag);
                    if (expected == 40) { // another statement between two portions
                        Drivers.same("between", ask(connection, "SELECT ?::int * 2", tag), "" + tag * 2);
                    }
                }
            }
            Drivers.same("rows", expected, round % 2 == 0 ? 101 : 61);
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    /** The driver sets a savepoint before each statement, so that an error does not spoil the transaction. */
    private static void autosave(Connection connection, int tag, int round) throws Exception {
        String word = "" + System.nanoTime();
        connection.setAutoCommit(false);
        for (int number = 0; number < 3; number++) {
            execute(connection, "INSERT INTO " + TABLE + " VALUES (?, ?, ?)", tag, round, word);
            Drivers.fails("22012", () -> ask(connection, "SELECT ?::int / 0", tag));
        }
        connection.commit();
        connection.setAutoCommit(true);
        Drivers.same("rows", ask(connection, "SELECT count(*) FROM " + TABLE + " WHERE word = ?", word), "3");
    }

    private static void largeObjects(Connection connection, int tag, int round) throws Exception {
        byte[] bytes = new byte[20_000];
        Arrays.fill(bytes, (byte) (tag + round));
        connection.setAutoCommit(false);
        LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long number = manager.createLO();
        try (var object = manager.open(number, LargeObjectManager.WRITE)) {
            object.write(bytes);
        }
        try (var object = manager.open(number, LargeObjectManager.READ)) {
            Drivers.same("large object", Arrays.equals(object.read(bytes.length + 1), bytes), true);
        }
        manager.delete(number);
        connection.commit();
        connection.setAutoCommit(true);
    }

    private static void copies(Connection connection, int tag, int round) throws Exception {
        var copy = connection.unwrap(PGConnection.class).getCopyAPI();
        var lines = new StringBuilder();
        range(0, 200).forEach(number -> lines.append(tag).append("\t-3\tcopied\n"));
        Drivers.same("copied", copy.copyIn("COPY " + TABLE + " FROM STDIN", new StringReader(lines.toString())), 200L);
        Drivers.fails("22P02", () -> copy.copyIn("COPY " + TABLE + " FROM STDIN", new StringReader("no number\n")));
        try (var statement = connection.prepareStatement("DELETE FROM " + TABLE + " WHERE tag = ? AND round = ?")) {
            bind(statement, tag, -3);
            Drivers.same("deleted", statement.executeUpdate(), 200);
        }
    }

    /** The driver prepares again by itself after 0A000; only an error inside of a transaction is the caller's. */
    private static void changedTables(Connection connection, int tag, int round) throws Exception {
        String table = TABLE + "_" + tag;
        execute(connection, "DROP TABLE IF EXISTS " + table);
        String[][] steps = {
            {"CREATE TABLE %s AS SELECT %d AS value", "" + tag},
            {"ALTER TABLE %s ALTER value TYPE text USING 'text %d'", "text " + tag},
            {"ALTER TABLE %s ADD added int DEFAULT %d", "text " + tag + " " + tag},
        };
        try (var statement = connection.prepareStatement("SELECT * FROM " + table + " WHERE 1 = ?")) {
            for (String[] step : steps) {
                execute(connection, step[0].formatted(table, tag));
                for (int turn = 0; turn < 4; turn++) {
                    bind(statement, 1);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        String got = rows.getString(1);
                        if (rows.getMetaData().getColumnCount() == 2) {
                            got += " " + rows.getInt(2);
                        }
                        Drivers.same(step[0], got, step[1]);
                    }
                }
                connection.setAutoCommit(false);
                Drivers.same(step[0], askInTransaction(connection, "SELECT * FROM " + table + " WHERE 1 = ?"), step[1]);
                connection.commit();
                connection.setAutoCommit(true);
            }
        }
        execute(connection, "DROP TABLE " + table);
    }

    /**
     * A new statement of the driver's with a text that some server may still have an old plan for. In a transaction the
     * pooler cannot heal that out of sight: it may fail once, but not again.
     */
    private static String askInTransaction(Connection connection, String sql) throws SQLException {
        try {
            return ask(connection, sql, 1);
        } catch (SQLException stale) {
            Drivers.same("in a transaction", stale.getSQLState(), "0A000");
            connection.rollback();
            return ask(connection, sql, 1);
        }
    }

    /** A request that overtakes its statement has no effect, so there are some attempts. */
    private static void cancels(Connection connection, int tag, int round) throws Exception {
        var timer = new Timer(true);
        SQLException error = null;
        for (int attempts = 0; attempts < 5 && error == null; attempts++) {
            try (var statement = connection.prepareStatement("SELECT pg_sleep(?)")) {
                bind(statement, 2);
                var cancel = new TimerTask() {
                    @Override
                    public void run() {
                        try {
                            statement.cancel();
                        } catch (SQLException refused) {
                            throw new IllegalStateException(refused);
                        }
                    }
                };
                timer.schedule(cancel, 20 + 100 * attempts);
                statement.execute();
            } catch (SQLException cancelled) {
                error = cancelled;
            }
        }
        timer.cancel();
        Drivers.same("cancelled", error == null ? "nothing" : error.getSQLState(), "57014");
        Drivers.same("after the cancellation", ask(connection, "SELECT ?::int", tag), "" + tag);
    }
}
