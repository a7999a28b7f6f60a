"""
The operators' page, under ``/ui`` on the admin port: server-rendered, and live by a little script. It asks and orders
by the operations of the admin API, in this process, and knows nothing that they do not say.

    guard     whose requests are let in, and what every answer carries
    sessions  signed in, by a cookie that no instance has to remember
    views     what there is to see, and orders
    text      everything from outside is text
    plots     the last hour and day
    app       where these meet
"""
