"""Read-only status over HTTP: metrics, health, a page.

cached   remembered answers
health   the probes /healthz and /readyz
metrics  counters and gauges for Prometheus
page     the HTML page
server   the HTTP server
serving  assembles meter, probes, page and server
systemd  readiness and watchdog messages
"""
