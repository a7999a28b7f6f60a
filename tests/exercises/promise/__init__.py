"""
The promise: every job that was registered ends in exactly one event, with the outcome that it really had:
``python -m tests.exercises.promise``.

The fake cloud of ``fake_cloud`` plays the vendor over all products and transports, and never sends some of its
callbacks; others come twice, late, before their job was registered, forged, or altered in what they say of the outcome,
the asset, the user data or the result. Failed jobs are run again and end once more, live recordings make many files, and
uploads overwrite others: each of these is an event of its own. The service is killed while that happens, and the vendor's
job APIs and queues are throttled for a while. What happens is drawn from a seed.

Meanwhile the clock of the service's process is set ahead and back, by seconds, hours, days and years, also when it starts.
Signatures are good for minutes and the vendor refuses questions that come from another time, so what is refused then is no
violation: the vendor tries again, or is asked when the clock is right. But every job ends in its one true event all the
same, nothing is removed although purge is called by that clock, no id is given twice, and nothing is put off.
"""
