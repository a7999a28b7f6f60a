"""
Alibaba Cloud, played on one port: queues, job APIs and callbacks, to rehearse and test against.

    cloud        ``FakeCloud``: jobs are submitted to it, take their time, end, and are told about
    faults       what goes wrong, and how often; how long things take
    jobs         a job, and how it really ended
    callbacks    what is sent about a job, true and false
    teller       when it is sent, and what came of it
    app          the HTTP side, with ``listening`` for the port and ``control`` for those who rehearse
    gateway      who may ask the job APIs; ``requests``: how they ask
    actions_*    the job APIs, action by action
    buses        EventBridge
    queues       MNS; ``topics``, and ``mns_documents`` that both read and write
"""
