// Makes requests on one connection until its input ends: node client.mjs PROTOCOL ADDRESS HOST CAFILE
import fs from "node:fs";
import https from "node:https";
import http2 from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";

const [protocol, address, name, ca] = process.argv.slice(2);
const [host, port] = address.split(":");
let ended = false;
process.stdin.on("end", () => { ended = true; }).resume();

function pattern(n) {
	let s = "";
	for (let i = 0; s.length < n; i++) s += i + ",";
	return Buffer.from(s.slice(0, n));
}

function fail(why) {
	console.log(why);
	process.exit(1);
}

const trusted = { ca: fs.readFileSync(ca), servername: name };
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ...trusted });

// Each returns the stream of the request, and a promise of [status, stream of the answer].
const begin = {
	https(method, path, length) {
		const headers = { Host: name };
		if (length) headers["Content-Length"] = length;
		const request = https.request({ agent, host, port, method, path, headers });
		return [request, new Promise((resolve, reject) => request.on("response", r => resolve([r.statusCode, r])).on("error", reject))];
	},
	http2(method, path, length) {
		const headers = { ":method": method, ":path": path, ":authority": name };
		if (length) headers["content-length"] = length;
		const request = session.request(headers);
		return [request, new Promise((resolve, reject) => request.on("response", h => resolve([h[":status"], request])).on("error", reject))];
	},
};
let session;
if (protocol !== "https") {
	session = http2.connect((protocol === "h2" ? "https://" : "http://") + address, trusted);
	session.on("error", e => fail("session: " + e));
	session.on("goaway", () => { if (!ended) fail("got a GOAWAY"); });
	session.on("close", () => { if (!ended) fail("the session has ended"); });
}

async function ask(method, path, upload, want) {
	const [request, answered] = begin[protocol === "https" ? "https" : "http2"](method, path, upload?.length);
	for (let i = 0; upload && i < upload.length; i += 3000) {
		request.write(upload.subarray(i, i + 3000));
		await sleep(5);
	}
	request.end();
	const [status, answer] = await answered;
	const pieces = [];
	for await (const piece of answer) pieces.push(piece);
	if (status !== 200 || !Buffer.concat(pieces).equals(want)) fail(`${method} ${path}: got ${status}, ${Buffer.concat(pieces).length} bytes, want ${want.length}`);
	console.log("ok", (session ?? request).socket.localPort);
}

const small = pattern(1000), large = pattern(300_000), upload = pattern(60_000);
try {
	while (!ended) {
		await sleep(5);
		await ask("GET", "/fixed/1000", null, small);
		const all = [ask("POST", "/echo", upload, upload)];
		if (session) all.push(ask("GET", "/drip/300000", null, large), ask("GET", "/fixed/1000", null, small)); // at once
		await Promise.all(all);
		await ask("GET", "/drip/300000", null, large);
	}
} catch (e) {
	fail(String(e));
}
process.exit(0);
