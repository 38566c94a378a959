"""Makes the files of a release: ``tox -e dist``.

packages   builds the source distribution and the wheel, whose bytes depend on the commit alone
bill       lists what is installed with the wheel
"""
