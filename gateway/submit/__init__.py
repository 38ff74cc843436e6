"""queue-job: a request becomes rows and an element of a worker's queue, which cannot part."""
