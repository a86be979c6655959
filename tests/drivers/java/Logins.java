import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

/**
 * Logs in with pgjdbc to PGHOST and PGPORT once for each line of the input (database, user, password and properties
 * "name=value", a tab between any two) and prints who it is then, or the SQLSTATE of the refusal.
 */
public final class Logins {
    public static void main(String[] arguments) throws Exception {
        String server = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split("\t");
            var properties = new Properties();
            properties.setProperty("user", words[1]);
            properties.setProperty("password", words[2]);
            properties.setProperty("connectTimeout", "20");
            for (int i = 3; i < words.length; i++) {
                String[] property = words[i].split("=", 2);
                properties.setProperty(property[0], property[1]);
            }
            try (var connection = DriverManager.getConnection("jdbc:postgresql://" + server + "/" + words[0], properties);
                    var rows = connection.createStatement().executeQuery("SELECT current_user")) {
                rows.next();
                System.out.println(rows.getString(1));
            } catch (SQLException refused) {
                System.out.println(refused.getSQLState());
            }
        }
    }
}
