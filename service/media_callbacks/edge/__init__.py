"""
Bytes in, answer out: what strangers may send, how it is read within bounds, and how it is answered; the certificates
that a signature needs; and the bounds of the operators' listener.
"""
