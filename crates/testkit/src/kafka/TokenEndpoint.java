import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsExchange;
import com.sun.net.httpserver.HttpsParameters;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.Base64;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSession;
import javax.net.ssl.TrustManagerFactory;

/**
 * An OAuth 2.0 token endpoint on HTTPS, one port for each server certificate and version of TLS. Arguments: the folder of certificates, the
 * password of its stores, and the lifetime of tokens in seconds. Prints "port NAME NUMBER" for each port, and a line for each request.
 */
public class TokenEndpoint {
    static final Set<Long> sessions = new HashSet<>();
    static final Set<String> seen = new HashSet<>();
    static Path folder;
    static char[] password;
    static long lifetime;
    static PrivateKey issuer;

    public static void main(String[] arguments) throws Exception {
        folder = Path.of(arguments[0]);
        password = arguments[1].toCharArray();
        lifetime = Long.parseLong(arguments[2]);
        byte[] key = Files.readAllBytes(folder.resolve("jwt.der"));
        issuer = KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(key));
        serve("rsa-1.2", "broker.p12", "TLSv1.2", false);
        serve("rsa-1.3", "broker.p12", "TLSv1.3", false);
        serve("ec-1.2", "broker-ec.p12", "TLSv1.2", false);
        serve("ec-1.3", "broker-ec.p12", "TLSv1.3", false);
        serve("mutual", "broker.p12", "TLSv1.3", true);
        System.out.println("ready");
    }

    static KeyStore store(String name) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream in = new FileInputStream(folder.resolve(name).toFile())) {
            store.load(in, password);
        }
        return store;
    }

    static void serve(String name, String keys, String protocol, boolean mutual) throws Exception {
        KeyManagerFactory ours = KeyManagerFactory.getInstance("PKIX");
        ours.init(store(keys), password);
        TrustManagerFactory theirs = TrustManagerFactory.getInstance("PKIX");
        theirs.init(store("trust.p12"));
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(ours.getKeyManagers(), theirs.getTrustManagers(), null);
        HttpsServer server = HttpsServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(context) {
            @Override
            public void configure(HttpsParameters parameters) {
                SSLParameters ssl = context.getDefaultSSLParameters();
                ssl.setProtocols(new String[] {protocol});
                ssl.setNeedClientAuth(mutual);
                parameters.setSSLParameters(ssl);
            }
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/token", exchange -> {
            try {
                answer(name, (HttpsExchange) exchange);
            } catch (Exception error) {
                System.out.println("failed " + name + " " + error);
                exchange.close();
            }
        });
        server.start();
        System.out.println("port " + name + " " + server.getAddress().getPort());
    }

    static void answer(String name, HttpsExchange exchange) throws Exception {
        String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        Map<String, String> form = new HashMap<>();
        for (String pair : body.split("&")) {
            String[] parts = pair.split("=", 2);
            form.put(parts[0], parts.length < 2 ? "" : URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        String grant = form.getOrDefault("grant_type", "");
        String refusal;
        int status = 400;
        String by = "secret";
        if (grant.equals("client_credentials") && form.containsKey("client_assertion")) {
            by = "client_assertion" + (form.containsKey("client_id") ? " and id" : "");
            status = 401;
            boolean typed = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".equals(form.get("client_assertion_type"));
            boolean same = form.getOrDefault("client_id", "service").equals("service");
            refusal = typed && same ? check(form.get("client_assertion")) : "invalid_client: type or id";
            refusal = refusal == null ? null : refusal.replace("invalid_grant", "invalid_client");
        } else if (grant.equals("client_credentials")) {
            String expected = "Basic " + Base64.getEncoder().encodeToString("service:s3cret".getBytes());
            refusal = expected.equals(exchange.getRequestHeaders().getFirst("Authorization")) ? null : "invalid_client";
            status = 401;
        } else if (grant.equals("urn:ietf:params:oauth:grant-type:jwt-bearer")) {
            String assertion = form.getOrDefault("assertion", "");
            by = "assertion " + text(new String(Base64.getUrlDecoder().decode(assertion.split("\\.")[0])), "alg");
            refusal = check(assertion);
        } else {
            refusal = "unsupported_grant_type";
        }
        SSLSession session = exchange.getSSLSession();
        String peer = "-";
        try {
            peer = session.getPeerPrincipal().getName();
        } catch (javax.net.ssl.SSLPeerUnverifiedException none) {
            // A client without a certificate.
        }
        boolean resumed;
        synchronized (sessions) {
            // A resumed session keeps the time of the first one.
            resumed = !sessions.add(session.getCreationTime());
        }
        System.out.println("request " + name + " " + session.getProtocol() + " " + session.getCipherSuite() + " peer=" + peer
            + " resumed=" + resumed + " by=" + by + " " + (refusal == null ? "granted" : "refused: " + refusal));
        if (refusal == null) {
            send(exchange, 200, "{\"access_token\":\"" + token() + "\",\"token_type\":\"Bearer\",\"expires_in\":" + lifetime + "}");
        } else {
            String[] parts = refusal.split(": ", 2);
            String why = parts.length < 2 ? "" : ",\"error_description\":\"" + parts[1] + "\"";
            send(exchange, status, "{\"error\":\"" + parts[0] + "\"" + why + "}");
        }
    }

    /** In chunks, as HttpExchange sends an answer of unknown length. */
    static void send(HttpExchange exchange, int status, String json) throws Exception {
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, 0);
        exchange.getResponseBody().write(json.getBytes(StandardCharsets.UTF_8));
        exchange.close();
    }

    /** What is wrong with an assertion (RFC 7523, 3); null if nothing is. */
    static String check(String assertion) throws Exception {
        String[] parts = assertion.split("\\.");
        if (parts.length != 3) {
            return "invalid_grant: no three parts";
        }
        Base64.Decoder decoder = Base64.getUrlDecoder();
        String head = new String(decoder.decode(parts[0]), StandardCharsets.UTF_8);
        String claims = new String(decoder.decode(parts[1]), StandardCharsets.UTF_8);
        String algorithm = text(head, "alg");
        boolean elliptic = "ES256".equals(algorithm);
        if (!elliptic && !"RS256".equals(algorithm)) {
            return "invalid_grant: algorithm " + algorithm;
        }
        Signature verifier = Signature.getInstance(elliptic ? "SHA256withECDSAinP1363Format" : "SHA256withRSA");
        verifier.initVerify(key(elliptic ? "client-ec-own.pem" : "client-own.pem"));
        verifier.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        if (!verifier.verify(decoder.decode(parts[2]))) {
            return "invalid_grant: the signature is wrong";
        }
        long now = Instant.now().getEpochSecond();
        Matcher expires = Pattern.compile("\"exp\":\\s*(\\d+)").matcher(claims);
        if (!expires.find() || Long.parseLong(expires.group(1)) <= now || Long.parseLong(expires.group(1)) > now + 3600) {
            return "invalid_grant: exp";
        }
        if (!"service".equals(text(claims, "iss")) || !"service".equals(text(claims, "sub"))) {
            return "invalid_grant: iss or sub";
        }
        if (!"https://localhost/token".equals(text(claims, "aud"))) {
            return "invalid_grant: aud";
        }
        synchronized (seen) {
            String id = text(claims, "jti");
            return id == null || seen.add(id) ? null : "invalid_grant: jti was used before";
        }
    }

    static PublicKey key(String certificate) throws Exception {
        try (FileInputStream in = new FileInputStream(folder.resolve(certificate).toFile())) {
            return CertificateFactory.getInstance("X.509").generateCertificate(in).getPublicKey();
        }
    }

    static String text(String json, String name) {
        Matcher matcher = Pattern.compile("\"" + name + "\":\\s*\"([^\"]*)\"").matcher(json);
        return matcher.find() ? matcher.group(1) : null;
    }

    static String token() throws Exception {
        long now = Instant.now().getEpochSecond();
        Base64.Encoder encoder = Base64.getUrlEncoder().withoutPadding();
        String head = encoder.encodeToString("{\"alg\":\"RS256\",\"kid\":\"k1\"}".getBytes());
        String claims = "{\"sub\":\"oauth\",\"iss\":\"issuer.test\",\"aud\":\"kafka\",\"iat\":" + now + ",\"exp\":" + (now + lifetime) + "}";
        String signed = head + "." + encoder.encodeToString(claims.getBytes());
        Signature signer = Signature.getInstance("SHA256withRSA");
        signer.initSign(issuer);
        signer.update(signed.getBytes(StandardCharsets.US_ASCII));
        return signed + "." + encoder.encodeToString(signer.sign());
    }
}
