"""`python -m services.trainer.worker`."""

if __name__ == "__main__":
    # Processes that build graphs import this file again, under another name, and shall not load the worker.
    from services.trainer.worker.claiming import main

    main()
