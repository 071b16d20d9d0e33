"""The command line as `python -m resnet_keras`."""

from resnet_keras.cli import main

if __name__ == "__main__":
    main()
