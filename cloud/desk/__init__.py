"""What people change, for the command line and the console alike: each a function, one transaction, one row in the audit log.

Who may do it is the console's business (cloud/console/auth.py); whoever reaches the store by the command line may do all.
"""
