module.exports = {
	apps: [{
		name: "app",
		script: `${__dirname}/app.js`,
		exec_mode: "cluster",
		instances: 2,
		wait_ready: true,
		listen_timeout: 60000,
		kill_timeout: 30000,
		out_file: "/dev/null",
		error_file: "/dev/null",
	}],
};
