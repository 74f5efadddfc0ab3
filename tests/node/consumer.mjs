// The consumer of the USB daemon's specification (4.1 `createConsumerGroup`, 4.2), its types taken off and its logic
// left as it is. Whatever the daemon writes has to be readable by this.
//
//     node consumer.mjs SOCKET
//
// prints each event as one line of JSON.

import Redis from 'ioredis';

class USBEventConsumer {
  constructor(
    redisConfig,
    groupName = 'plugin-loader',
    consumerName = 'main',
  ) {
    this.streamName = 'aw:hotplug';
    this.isRunning = false;
    this.redis = new Redis(redisConfig);
    this.groupName = groupName;
    this.consumerName = consumerName;
  }

  async createConsumerGroup() {
    try {
      await this.redis.xgroup(
        'CREATE',
        this.streamName,
        this.groupName,
        '$',
        'MKSTREAM',
      );
    } catch (error) {
      // Group might already exist
      if (!error.message.includes('BUSYGROUP')) {
        throw error;
      }
    }
  }

  async startConsuming(
    eventHandler,
  ) {
    this.isRunning = true;

    // Ensure consumer group exists
    await this.createConsumerGroup();

    while (this.isRunning) {
      try {
        const results = await this.redis.xreadgroup(
          'GROUP',
          this.groupName,
          this.consumerName,
          'COUNT',
          1,
          'BLOCK',
          1000,
          'STREAMS',
          this.streamName,
          '>',
        );

        if (results && results.length > 0) {
          const [streamName, messages] = results[0];

          for (const [messageId, fields] of messages) {
            const event = this.parseUSBEvent(messageId, fields);
            await eventHandler(event);

            // Acknowledge message
            await this.redis.xack(this.streamName, this.groupName, messageId);
          }
        }
      } catch (error) {
        if (this.isRunning) {
          console.error('Error consuming USB events:', error);
          await new Promise((resolve) => setTimeout(resolve, 1000));
        }
      }
    }
  }

  parseUSBEvent(messageId, fields) {
    const fieldObj = {};
    for (let i = 0; i < fields.length; i += 2) {
      fieldObj[fields[i]] = fields[i + 1];
    }

    return {
      messageId,
      source: fieldObj.source,
      action: fieldObj.action,
      vendorId: parseInt(fieldObj.vendor_id, 16),
      productId: parseInt(fieldObj.product_id, 16),
      deviceSignature: fieldObj.device_signature,
      manufacturer: fieldObj.manufacturer,
      product: fieldObj.product,
      serialNumber: fieldObj.serial_number,
      timestamp: parseInt(fieldObj.timestamp),
      deviceDescriptor: fieldObj.device_descriptor
        ? JSON.parse(fieldObj.device_descriptor)
        : null,
    };
  }
}

await new USBEventConsumer({ path: process.argv[2] }).startConsuming(async (event) => {
  console.log(JSON.stringify(event));
});
