"""job-callback: what the workers report becomes the state of jobs, pictures, videos and credits."""
