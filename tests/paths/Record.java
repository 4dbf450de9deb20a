import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/** Tomcat with one servlet for each view; arguments: port, directory, and `lenient` for what an administrator may allow. */
public class Record {
    public static void main(String[] args) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(args[1]);
        Connector connector = new Connector();
        connector.setPort(Integer.parseInt(args[0]));
        connector.setProperty("address", "127.0.0.1");
        connector.setProperty("relaxedPathChars", "\\");
        if (args.length > 2) {
            connector.setEncodedSolidusHandling("decode");
            connector.setAllowBackslash(true);
        }
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", args[1]);
        add(context, "/api/health", "health");
        add(context, "/api/*", "api");
        add(context, "/auth/login", "login");
        add(context, "/users/*", "users");
        add(context, "/", "none");
        tomcat.start();
        tomcat.getServer().await();
    }

    private static void add(Context context, String pattern, String view) {
        Tomcat.addServlet(context, view, new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                String below = request.getPathInfo();
                String users = below != null && below.matches("/[^/]+/orders/?") ? "orders" : "none";
                response.getWriter().write(view.equals("users") ? users : view);
            }
        });
        context.addServletMappingDecoded(pattern, view);
    }
}
