"""From the body of a request to a study: read, limited, judged, planned."""
