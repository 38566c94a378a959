"""Webhooks: messages about lines of the history, over HTTP.

message    the body of a message: JSON, or a Jinja template
signature  the headers of https://www.standardwebhooks.com
sending    one attempt: POST, and the judgement of the answer
sender     the thread that sends the waiting messages of the journal
"""
