"""Finds amphora certificates that Octavia does not rotate, and lets Octavia rotate those whose rotation died.

``amphora_certificates``  the handler
``rotation``              when Octavia rotates a certificate, by ``octavia.conf``
``queries``               reads and writes the columns of certificates
``rules``                 the problem of a certificate, and why a heal must not follow
"""
