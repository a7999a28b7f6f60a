"""
The promise: every job that was registered ends in exactly one event, with the outcome that it really had:
``python -m tests.promise``.

The fake cloud of ``service.fake_cloud`` plays the vendor over all products and transports, and never sends some of its
callbacks; others come twice, late, before their job was registered, forged or altered. The service is killed while
that happens, and the vendor's job APIs and queues are throttled for a while. What happens is drawn from a seed.
"""
