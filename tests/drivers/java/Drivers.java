import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Checks pgjdbc against the server that PGHOST, PGPORT, PGUSER and PGDATABASE name: {@code java Drivers pgjdbc}.
 *
 * <p>CLIENTS clients work at the same time for SECONDS seconds a check; each one checks that every row is its own.
 */
public final class Drivers {
    static final int CLIENTS = Integer.parseInt(variable("CLIENTS", "12"));
    private static final double SECONDS = Double.parseDouble(variable("SECONDS", "1"));
    private static final int LEAST_ROUNDS = 3;

    /** Something that may fail with a check's message or the driver's. */
    interface Action {
        void run() throws Exception;
    }

    /** One client: what it does each round, and how it leaves. */
    interface Client extends AutoCloseable {
        void round(int round) throws Exception;

        @Override
        void close() throws SQLException;
    }

    interface Opener {
        Client open(int tag) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        PgJdbc.run();
        System.out.println("all checks passed");
    }

    static String variable(String name, String otherwise) {
        return Objects.requireNonNullElse(System.getenv(name), otherwise);
    }

    /** All clients do rounds until the time is over; prints one line, and ends the program at the first failure. */
    static void check(String name, Opener opener) throws InterruptedException {
        long began = System.nanoTime();
        long deadline = began + (long) (SECONDS * 1e9);
        var rounds = new AtomicInteger();
        var threads = Executors.newFixedThreadPool(CLIENTS);
        List<Future<?>> working = new ArrayList<>();
        for (int number = 0; number < CLIENTS; number++) {
            int tag = number;
            Callable<Void> work = () -> {
                try (Client client = opener.open(tag)) {
                    for (int round = 0; round < LEAST_ROUNDS || System.nanoTime() < deadline; round++) {
                        client.round(round);
                        rounds.incrementAndGet();
                    }
                }
                return null;
            };
            working.add(threads.submit(work));
        }
        for (int tag = 0; tag < CLIENTS; tag++) {
            try {
                working.get(tag).get();
            } catch (java.util.concurrent.ExecutionException failed) {
                System.out.printf("FAILED %s: client %d: %s%n", name, tag, failed.getCause());
                failed.getCause().printStackTrace(System.out);
                System.exit(1);
            }
        }
        threads.shutdown();
        System.out.printf("ok %s (%d ms, %d rounds)%n", name, (System.nanoTime() - began) / 1_000_000, rounds.get());
    }

    static void same(String what, Object got, Object wanted) {
        if (!Objects.equals(got, wanted)) {
            throw new AssertionError(what + ": got " + got + ", wanted " + wanted);
        }
    }

    /** The action must fail with this SQLSTATE. */
    static SQLException fails(String state, Action action) throws Exception {
        try {
            action.run();
        } catch (SQLException error) {
            if (state.equals(error.getSQLState())) {
                return error;
            }
            throw new AssertionError("wanted " + state + ", got " + error.getSQLState(), error);
        }
        throw new AssertionError("wanted " + state + ", but it went well");
    }
}
