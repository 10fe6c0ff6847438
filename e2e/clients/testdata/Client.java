import java.io.FileInputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.atomic.AtomicBoolean;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Makes requests on one connection until its input ends: java Client.java VERSION URL CAFILE */
public class Client {
	static byte[] pattern(int n) {
		StringBuilder b = new StringBuilder();
		for (int i = 0; b.length() < n; i++) b.append(i).append(',');
		return b.substring(0, n).getBytes(StandardCharsets.US_ASCII);
	}

	static SSLContext trusting(String file) throws Exception {
		KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null, null);
		try (FileInputStream in = new FileInputStream(file)) {
			store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
		}
		TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		trust.init(store);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(null, trust.getTrustManagers(), null);
		return context;
	}

	public static void main(String[] args) throws Exception {
		HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(args[0])).sslContext(trusting(args[2])).build();
		AtomicBoolean ended = new AtomicBoolean();
		Thread input = new Thread(() -> {
			try {
				while (System.in.read() >= 0) { }
			} catch (IOException e) {
				// is an end as well
			}
			ended.set(true);
		});
		input.setDaemon(true);
		input.start();
		byte[] small = pattern(1000), large = pattern(300_000), upload = pattern(60_000);
		while (!ended.get()) {
			Thread.sleep(5);
			ask(client, HttpRequest.newBuilder(URI.create(args[1] + "/fixed/1000")).build(), args[0], small);
			ask(client, HttpRequest.newBuilder(URI.create(args[1] + "/drip/300000")).build(), args[0], large);
			ask(client, HttpRequest.newBuilder(URI.create(args[1] + "/echo")).POST(HttpRequest.BodyPublishers.ofByteArray(upload)).build(), args[0], upload);
		}
		System.exit(0);
	}

	static void ask(HttpClient client, HttpRequest request, String version, byte[] want) throws Exception {
		HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
		if (response.statusCode() != 200 || !response.version().name().equals(version) || !Arrays.equals(response.body(), want)) {
			System.out.println("got " + response + " " + response.version() + " with " + response.body().length + " bytes, want " + want.length);
			System.exit(1);
		}
		System.out.println("ok " + want.length);
	}
}
