"""Finds amphora certificates that Octavia does not rotate, and lets Octavia rotate a certificate whose rotation died.

``amphora_certificates``  the handler
``rotation``              computes from ``octavia.conf`` when Octavia rotates a certificate
``queries``               reads and writes the columns of certificates
``rules``                 finds a certificate's problem, and decides whether stackmend may heal it
"""
