"""Shows the status over HTTP, read-only: metrics, health, a page.

cached   remembers answers
health   answers the probes /healthz and /readyz
metrics  counters and gauges for Prometheus
page     makes the HTML page
server   the HTTP server
serving  assembles meter, probes, page and server
systemd  sends readiness and watchdog messages
"""
