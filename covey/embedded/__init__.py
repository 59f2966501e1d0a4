"""Children that run the embedded MQTT broker and Kafka API broker (extra `demo`)."""
