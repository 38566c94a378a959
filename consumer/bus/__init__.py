"""The message bus: from RabbitMQ to decoded events.

connection  transport URL to kombu connection
tls         TLS settings of a connection
wire        py-amqp with fewer system calls
intake      consumes the queues of one connection
source      reads one broker in batches, stores, acknowledges
compression decompresses a message within a bound
envelope    bytes to event
formats     Nova's wire formats to one
probe       answers handlers' questions about RabbitMQ
topology    inspects a broker; publishes for the demo and tests
"""
