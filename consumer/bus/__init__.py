"""The message bus: from RabbitMQ to decoded events.

connection  transport URL to kombu connection
tls         TLS settings of a connection
wire        py-amqp with fewer system calls
intake      consumes the queues of one connection
source      reads one broker in batches; stores and acknowledges them
compression decompresses a message within a bound
envelope    decodes bytes to an event
formats     converts Nova's two wire formats to one
probe       answers handlers' questions about RabbitMQ
topology    inspects a broker; publishes for the demo and tests
"""
