"""What the benchmark ``sweep`` needs: a fleet in real databases, the commands that look after it, and their cost.

``site`` runs MariaDB and Placement and fills them; ``rows`` is the fleet as SQL; ``tasks`` says what is compared with what,
and how to tell that it was done; ``usage`` runs a program and says what it took.
"""
