// A Node application as pm2's documentation has it for its cluster mode: it says when it is ready, and finishes what it
// has at SIGINT.
const http = require("node:http");

const body = "x".repeat(1000);
const server = http.createServer((request, response) => {
	request.resume();
	request.on("end", () => response.end(body));
});

server.listen(Number(process.env.PORT), process.env.HOST, () => process.send("ready"));

process.on("SIGINT", () => server.close(() => process.exit(0)));
