"""`python -m services.dataset`."""

if __name__ == "__main__":
    # Decoding processes import this file again, under another name, and shall not load the service.
    from services.dataset.wiring import main

    main()
