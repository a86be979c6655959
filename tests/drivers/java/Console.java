import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

/**
 * Says each line of the input to the console at PGHOST and PGPORT, as PGUSER with PGPASSWORD, with the query mode that the
 * argument names; prints the first two columns of each row as "name=value", then "done", or the SQLSTATE of the error.
 */
public final class Console {
    public static void main(String[] arguments) throws Exception {
        var properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("preferQueryMode", arguments[0]);
        properties.setProperty("connectTimeout", "20");
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/pgdoorman";
        var lines = new BufferedReader(new InputStreamReader(System.in));
        try (var connection = DriverManager.getConnection(url, properties)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                try (var statement = connection.prepareStatement(line)) {
                    if (statement.execute()) {
                        print(statement.getResultSet());
                    }
                    System.out.println("done");
                } catch (SQLException refused) {
                    System.out.println(refused.getSQLState());
                }
            }
        }
    }

    private static void print(ResultSet rows) throws SQLException {
        var columns = rows.getMetaData();
        int shown = Math.min(2, columns.getColumnCount());
        while (rows.next()) {
            for (int column = 1; column <= shown; column++) {
                System.out.println(columns.getColumnName(column) + "=" + rows.getString(column));
            }
        }
    }
}
