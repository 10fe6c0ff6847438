// A Node application for pm2's cluster mode: it says when it is ready. At SIGINT it finishes what it has, and ends each
// connection with its next response, so that pm2 need not kill it.
const http = require("node:http");

const body = "x".repeat(1000);
let leaving = false;
const server = http.createServer((request, response) => {
	request.resume();
	request.on("end", () => {
		if (leaving) response.setHeader("Connection", "close");
		response.end(body);
	});
});

server.listen(Number(process.env.PORT), process.env.HOST, () => process.send("ready"));

process.on("SIGINT", () => {
	leaving = true;
	server.close(() => process.exit(0));
});
