"""Data in and out: microscope files, simulated batches, patches. Import the module you need."""
